#!/bin/sh
# Installs the Debian packages that building, the demo and the tests need, and those that the
# arguments name; without root it prints their names.
set -eu

wanted="conntrack curl g++ gcc ipset iproute2 iptables libc6-dev"
wanted="$wanted libnetfilter-queue-dev make nftables util-linux $*"
# A Python of the distribution keeps its headers and venv apart; others
# bring them along.
case "$(python3 -c 'import sys; print(sys.base_prefix)')" in
    /usr) wanted="$wanted python3-dev python3-venv" ;;
esac

command -v dpkg-query >/dev/null || {
    echo "Not a Debian system; needed are the likes of: $wanted"
    exit 0
}
missing=""
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "These system packages are missing; install them first, then try again:$missing" >&2
    exit 1
fi
echo "Installing system packages:$missing"
apt-get update -qq || true
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
