"""Groups of one size and sliding windows: their order, places, counts and means, worked out by hand."""
import pytest
import torch

from freqdino.modeling.inference import Inference, SlidingWindow, padded_size, predict_in_windows


class FirstPixel:
    """Scores of two classes: the first pixel's value over the whole picture, and each pixel's own value."""

    def __init__(self):
        self.calls = []

    def __call__(self, batched_inputs):
        self.calls.append([tuple(example["image"].shape[1:]) for example in batched_inputs])
        return [{"sem_seg": torch.stack([example["image"][0, :1, :1].expand(example["image"].shape[1:]),
                                         example["image"][0]])} for example in batched_inputs]


def ramp(height, width):
    """A picture whose pixel in row y and column x is 10 y + x."""
    values = 10.0 * torch.arange(height)[:, None] + torch.arange(width)
    return {"image": values.expand(3, -1, -1)}


def test_windows_of_a_row_worked_out_by_hand():
    """A row of 7 pixels, windows of 4 that move by 2: columns 0-3, 2-5 and, moved back to the border, 3-6.

    Each window says the number of its first column; pixel by pixel the mean of 0, 2 and 3 over the windows that see it.
    """
    model = FirstPixel()
    result = predict_in_windows(model, ramp(1, 7), SlidingWindow(size=(1, 4), stride=(1, 2)))["sem_seg"]
    assert model.calls == [[(1, 4)] * 3]
    means = torch.tensor([0, 0, (0 + 2) / 2, (0 + 2 + 3) / 3, (2 + 3) / 2, (2 + 3) / 2, 3])
    torch.testing.assert_close(result[0, 0], means)
    assert torch.equal(result[1, 0], torch.arange(7.0))        # all windows agree on the pixel itself


def test_windows_of_both_directions():
    """5 x 5 pixels, windows of 3 x 3 that move by 2: four windows, of first pixels 0, 2, 20, 22."""
    result = predict_in_windows(FirstPixel(), ramp(5, 5), SlidingWindow(size=(3, 3), stride=(2, 2)))["sem_seg"]
    assert result[0].tolist() == [[0, 0, 1, 2, 2], [0, 0, 1, 2, 2], [10, 10, 11, 12, 12], [20, 20, 21, 22, 22],
                                  [20, 20, 21, 22, 22]]


@pytest.mark.parametrize(("length", "size", "stride", "starts"), [
    (10, 4, 3, [0, 3, 6]), (11, 4, 3, [0, 3, 6, 7]), (4, 4, 4, [0]), (3, 4, 2, [0]), (8, 4, 4, [0, 4]),
    (9, 4, 4, [0, 4, 5]), (5, 4, 1, [0, 1])])
def test_places(length, size, stride, starts):
    window = SlidingWindow(size=(size, 1), stride=(stride, 1))
    places = [rows for rows, _ in window.places(length, 1)]
    assert [rows.start for rows in places] == starts
    assert all(rows.stop - rows.start == min(size, length) and rows.stop <= length for rows in places)


def test_a_picture_smaller_than_a_window_runs_as_it_is():
    model = FirstPixel()
    result = predict_in_windows(model, ramp(2, 9), SlidingWindow(size=(4, 4), stride=(4, 4)))["sem_seg"]
    assert model.calls == [[(2, 4)] * 3]                        # lower than a window: its own height
    assert result[0, 0].tolist() == [0, 0, 0, 0, 4, 4.5, 4.5, 4.5, 5]


def test_few_windows_run_together_and_the_result_has_the_size_that_is_asked_for():
    model = FirstPixel()
    result = predict_in_windows(model, {**ramp(4, 12), "height": 8, "width": 24},
                                SlidingWindow(size=(2, 2), stride=(2, 2)))["sem_seg"]
    assert [len(call) for call in model.calls] == [4, 4, 4]     # 2 x 6 windows
    assert result.shape == (2, 8, 24)
    assert result[1, 3, 4].item() == pytest.approx(10 * 1.25 + 1.75)    # row 3 lies at (3 + 0.5) / 2 - 0.5 = 1.25


def test_groups_keep_the_order_of_the_pictures():
    model, pictures = FirstPixel(), [ramp(*size) for size in ((3, 5), (7, 2), (4, 6), (8, 4))]
    for index, picture in enumerate(pictures):
        picture["image"] = picture["image"] + index
    results = Inference()(model, pictures, 4)
    assert model.calls == [[(3, 5), (4, 6)], [(7, 2), (8, 4)]]
    assert [result["sem_seg"][0, 0, 0].item() for result in results] == [0, 1, 2, 3]
    model.calls.clear()
    Inference(group_by_size=False)(model, pictures, 4)
    assert len(model.calls) == 1


def test_padded_sizes():
    image = torch.zeros(3, 33, 64)
    assert [padded_size(image, step) for step in (0, 1, 32, 48)] == [(33, 64), (33, 64), (64, 64), (48, 96)]
