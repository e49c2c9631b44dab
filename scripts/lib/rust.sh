# shellcheck shell=bash
# Rust, which is found but never installed. To be sourced.
#
#   rust_version            prints cargo's version, and puts cargo on the PATH; fails where there is none
#   target_directory        where cargo puts what it builds here; ROOT is the workspace

rust_version() {
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    fi
    cargo --version 2>/dev/null | cut -d ' ' -f 2 | grep .
}

target_directory() {
    (cd "$ROOT" && cargo metadata --no-deps --format-version 1) |
        sed -n 's/.*"target_directory":"\(\([^"\\]\|\\.\)*\)".*/\1/p' | sed 's/\\\(.\)/\1/g'
}
