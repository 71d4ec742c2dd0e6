"""Pictures of the web page for the docs: a session of a running server, in Chromium, on a desktop and on a phone.

    python serve.py --config tiny --port 8000 &
    python tools/draw_page.py http://127.0.0.1:8000 docs/images

Needs the extra "test" and Chromium (`make browser`). Writes serving_desktop.png and serving_phone.png.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.serving.browser import chromium, opened, speech

SCREENS = {
    "serving_desktop": {"viewport": {"width": 1200, "height": 800}},
    "serving_phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True},
}
TALKING_MILLISECONDS = 6000  # before the picture is taken


def main() -> None:
    url, folder = sys.argv[1], Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as sounds:
        recording = speech(Path(sounds) / "speech.wav")
        with chromium(recording) as browser:
            for name, screen in SCREENS.items():
                with opened(browser, url, **screen) as page:
                    page.locator("#start").click()
                    page.locator("body[data-state=live]").wait_for()
                    page.set_input_files("#sound", recording)
                    page.locator("#speaking").wait_for()
                    page.wait_for_timeout(TALKING_MILLISECONDS)
                    page.screenshot(path=folder / f"{name}.png", full_page=True)
                    page.locator("#end").click()
                    page.locator("body[data-state=idle]").wait_for()


if __name__ == "__main__":
    main()
