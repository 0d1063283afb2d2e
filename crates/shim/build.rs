//! Compiles pause, which the shim embeds: stable cargo cannot embed one binary of a workspace in another.

use std::path::{Path, PathBuf};

fn main() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pause/src/main.rs");
    println!("cargo:rerun-if-changed={}", source.display());
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(variable("OUT_DIR")).join("pause");
    // The lint guards the shim; a build script may start the compiler.
    #[allow(clippy::disallowed_methods)]
    let status = std::process::Command::new(variable("RUSTC"))
        .args(["--edition=2024", "--crate-name=pause", "--crate-type=bin"])
        .args(["-Cpanic=abort", "-Copt-level=s", "-Cstrip=symbols"])
        .args(["-Crelocation-model=static", "-Ctarget-feature=+crt-static"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"])
        .arg("-Clink-arg=-Wl,-z,noseparate-code,-z,norelro,--build-id=none")
        .arg(format!("--target={}", variable("TARGET")))
        .arg("-o")
        .arg(&out)
        .arg(&source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("compile {}: rustc {status}", source.display()),
        Err(error) => panic!("run {}: {error}", variable("RUSTC")),
    }
    println!("cargo:rustc-env=KILLICK_PAUSE={}", out.display());
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
