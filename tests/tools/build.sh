#!/bin/sh
# Builds the programs that a folder's go.mod lists as tools into its bin/, and only those that are older than
# what they are made of. Those of others come from the modules that go.mod pins, ours from the folders beside it.
#
#     sh tests/tools/build.sh [FOLDER]
#     CGO=1 sh tests/tools/build.sh FOLDER     # for a program that is partly C; it needs a C compiler
#
# A machine that has no Go, or cannot reach the modules, is no error: it says why in one line, leaves the
# line in bin/.why-not for the tests to skip with, and exits 0. A program that does not compile is an error.
set -eu
cd "${1:-$(dirname "$0")}"
mkdir -p bin

# Nothing may be fetched that go.mod does not pin, a newer toolchain among it.
export GOTOOLCHAIN=local GOWORK=off CGO_ENABLED="${CGO:-0}"

# Kubernetes' programs say the version that they were linked with; without one kubelet registers as v0.0.0.
flags='-s -w'
release=$(sed -n "s/^[[:space:]]*k8s.io\/kubernetes \(v[0-9.]*\).*/\1/p" go.mod)
if [ -n "$release" ]; then
    minor=${release#v1.}
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags="$flags -X $package.gitVersion=$release -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
    done
fi

# Helm takes charts for the Kubernetes that it was linked with; without one for v1.20.
release=$(sed -n "s/^[[:space:]]*k8s.io\/client-go v0\.\([0-9]*\)\..*/\1/p" go.mod)
if grep -q '^tool helm.sh/helm/v3/' go.mod; then
    for package in helm.sh/helm/v3/pkg/chartutil helm.sh/helm/v3/pkg/lint/rules; do
        flags="$flags -X $package.k8sVersionMajor=1 -X $package.k8sVersionMinor=$release"
    done
fi

give_up() {
    printf '%s\n' "$1" >bin/.why-not
    printf 'test programs in Go not built: %s\n' "$1"
    exit 0
}

out_of_date() {  # The path of a program below bin/
    [ ! -x "$1" ] || [ -n "$(find . -path ./bin -prune -o \( -name 'go.*' -o -name '*.go' \) -newer "$1" -print)" ]
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
    go build -mod=readonly -trimpath -ldflags="$flags" -o "bin/.building-$$" "$1"
    mv "bin/.building-$$" "bin/$program"
}

packages=$(sed -n -e "s/^tool \([^(]\)/\1/p" -e "/^tool (/,/^)/s/^[[:space:]]\{1,\}//p" go.mod)
trap 'rm -f "bin/.building-$$" bin/.log' EXIT

# First of all of them: an old program must not pass for the one that go.mod now pins.
for package in $packages; do
    ! out_of_date "bin/${package##*/}" || rm -f "bin/${package##*/}"
done
for package in $packages; do
    [ -x "bin/${package##*/}" ] || build "$package"
done
rm -f bin/.why-not
