import sys

try:
    from hwsearch.cli import main
except KeyboardInterrupt:
    sys.exit(130)

sys.exit(main())
