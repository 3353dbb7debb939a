#!/bin/sh
# Builds the test programs that go.mod lists as tools into bin/, and only those that are older than what
# they are made of. Those of others come from the modules that go.mod pins, ours from the folders here.
#
# A machine that has no Go, or cannot reach the modules, is no error: it says why in one line, leaves the
# line in bin/.why-not for the tests to skip with, and exits 0. A program that does not compile is an error.
set -eu
cd "$(dirname "$0")"
mkdir -p bin

# Nothing may be fetched that go.mod does not pin, a newer toolchain among it.
export GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0

give_up() {
    printf '%s\n' "$1" >bin/.why-not
    printf 'test programs in Go not built: %s\n' "$1"
    exit 0
}

out_of_date() {  # The path of a program below bin/
    [ ! -x "$1" ] || [ -n "$(find go.mod go.sum build.sh ./*/*.go -newer "$1")" ]
}

build() {  # A package
    program=${1##*/}
    command -v go >/dev/null || give_up 'there is no Go toolchain on this machine'
    # Fetches what is missing, so that what fails after it is the build itself.
    if ! go list -mod=readonly -deps "$1" >/dev/null 2>bin/.log; then
        give_up "the modules of $program are not to be had: $(tail -n 1 bin/.log)"
    fi
    printf 'building %s\n' "$program"
    # Under another name until it is whole: an interrupted build leaves no program behind.
    go build -mod=readonly -trimpath -ldflags='-s -w' -o "bin/.building-$$" "$1"
    mv "bin/.building-$$" "bin/$program"
}

packages=$(sed -n '/^tool (/,/^)/s/^[[:space:]]\{1,\}//p' go.mod)
trap 'rm -f "bin/.building-$$" bin/.log' EXIT

# First of all of them: an old program must not pass for the one that go.mod now pins.
for package in $packages; do
    ! out_of_date "bin/${package##*/}" || rm -f "bin/${package##*/}"
done
for package in $packages; do
    [ -x "bin/${package##*/}" ] || build "$package"
done
rm -f bin/.why-not
