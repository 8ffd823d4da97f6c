"""The lines of `cbn_lab.export` for layers that PyTorch lacks."""

_LECUN_TANH = ["class LeCunTanh(nn.Module):", "    def forward(self, z):",
               "        return 1.7159 * tanh(z * (2.0 / 3.0))", ""]


def own_classes(options: dict, dims: int, *, low: bool) -> dict[str, list[str]]:
    """Layers that PyTorch lacks, by name. A batch norm lends its gamma, shift and running statistics.

    `low`: maps may have 16 bits; statistics are taken in float32 all the same, and a gamma or shift that stands alone
    is rounded to 16 bits, as in `norms`.
    """
    axes, wide = ("(0, 2, 3)", "[:, None, None]") if dims == 2 else ("0", "")
    momentum, eps = options.get("momentum", 0.1), options.get("eps", 1e-5)
    cast, widen, back = (".to(x.dtype)", ["        kind, x = x.dtype, x.float()"], ".to(kind)") if low else ("", [], "")
    affine = f"self.weight{wide}{cast} + self.bias{wide}{cast}"
    base = f"(nn.BatchNorm{dims}d):"

    def returned(product: str) -> str:
        whole = f"{product} + self.bias{wide}"
        return f"        return {f'({whole}){back}' if low else whole}"

    return {
        "LeCunTanh": _LECUN_TANH,
        "Affine": [f"class Affine{base}  # gamma and shift alone, without statistics", "    def forward(self, x):",
                   f"        return x * {affine}", ""],
        "Shift": [f"class Shift{base}  # the pre-shift behind a sum", "    def forward(self, x):",
                  f"        return x + self.bias{wide}{cast}", ""],
        "CenterOnly": [f"class CenterOnly{base}  # takes the mean out and leaves the scale",
                       "    def forward(self, x):", *widen,
                       f"        mean = var_mean(x, {axes}, correction=0)[1] if self.training else "
                       "self.running_mean",
                       "        if self.training:",
                       f"            self.running_mean.lerp_(mean.detach(), {momentum!r})",
                       returned(f"(x - mean{wide}) * self.weight{wide}"), ""],
        "ScaleOnly": [f"class ScaleOnly{base}  # leaves the mean in and divides by the root mean square",
                      "    def forward(self, x):", *widen, "        second = self.running_var",
                      "        if self.training:",
                      f"            var, mean = var_mean(x, {axes}, correction=0)",
                      "            second = var + mean * mean",
                      f"            self.running_var.lerp_(second.detach(), {momentum!r})",
                      f"        scale = rsqrt(second + {eps!r}) * self.weight",
                      returned(f"x * scale{wide}"), ""],
    }
