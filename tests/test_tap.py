"""The device in memory behaves as the data path may expect of any `Tap`."""

from __future__ import annotations

from ipop.tap import WRITTEN_FRAMES, MemoryTap, Tap

FRAME = bytes(range(60))


def test_injected_frames_reach_the_last_callback_only() -> None:
    tap = MemoryTap("vpn0")
    first: list[bytes] = []
    second: list[bytes] = []
    tap.on_frame(first.append)
    tap.inject(FRAME)
    tap.on_frame(second.append)
    tap.inject(FRAME[:20])
    assert (tap.name, first, second) == ("vpn0", [FRAME], [FRAME[:20]])


def test_written_frames_are_kept_in_order_and_the_oldest_forgotten() -> None:
    device: Tap = MemoryTap()
    for number in range(WRITTEN_FRAMES + 10):
        device.write(number.to_bytes(4, "big"))
    assert isinstance(device, MemoryTap)
    assert len(device.written) == WRITTEN_FRAMES
    assert device.written[0] == (10).to_bytes(4, "big")
    assert device.written[-1] == (WRITTEN_FRAMES + 9).to_bytes(4, "big")


def test_a_written_frame_is_a_copy() -> None:
    tap, buffer = MemoryTap(), bytearray(FRAME)
    tap.write(memoryview(buffer))  # type: ignore[arg-type]
    buffer[0] = 99
    assert tap.written[0] == FRAME


def test_frames_are_lost_without_a_listener_and_after_close() -> None:
    tap = MemoryTap()
    seen: list[bytes] = []
    tap.inject(FRAME)
    tap.on_frame(seen.append)
    tap.close()
    tap.close()
    tap.inject(FRAME)
    tap.write(FRAME)
    assert (seen, list(tap.written), tap.closed, tap.lost) == ([], [], True, 3)
