"""`python -m demo`: the main job on this machine's loopback, from real parts."""

import sys

from demo import story

if __name__ == "__main__":
    sys.exit(story.run())
