"""Each front end shows a widget that works: a slider by mouse, a picture that changes."""

import books
import pytest

CELLS = ["from cbn_lab import widgets", "widgets.slack.effects()"]


@pytest.mark.parametrize("front_end", ["lab", "notebook7", "voila", "classic"])
def test_a_slider_moves_a_picture(front_end, request):
    book = request.getfixturevalue(front_end)(cells=CELLS)
    if front_end != "voila":
        book.run_all()
    picture = book.page.locator("img.widget-image, .widget-image img").first
    first = books.pixels(picture)
    book.click_slider(book.page.locator(".widget-slider").first, 30)
    books.changed(picture, first)
