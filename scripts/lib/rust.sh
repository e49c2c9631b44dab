# shellcheck shell=bash
# Rust, which is found but never installed. To be sourced.
#
#   find_rust               puts cargo on the PATH, if it is not there but where rustup puts it; fails without one
#   rust_version            prints cargo's version
#   target_directory        where cargo puts what it builds here; ROOT is the workspace

find_rust() {
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    fi
    [ -n "$(rust_version)" ]
}

rust_version() { cargo --version 2>/dev/null | cut -d ' ' -f 2; }

target_directory() {
    (cd "$ROOT" && cargo metadata --no-deps --format-version 1) |
        sed -n 's/.*"target_directory":"\(\([^"\\]\|\\.\)*\)".*/\1/p' | sed 's/\\\(.\)/\1/g'
}
