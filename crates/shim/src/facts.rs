//! `pod facts`: what `killick plan` wants to know of this host.

use killick_container::cgroup::Layout;
use killick_sys::facts;

pub(crate) fn facts() -> Result<(), String> {
    let layout = Layout::detect().map_err(|error| error.to_string())?;
    let facts = serde_json::json!({
        "kernel": nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default(),
        "machine": std::env::consts::ARCH,
        "calls": facts::survey(),
        "cgroups": layout,
        "capabilities": killick_sys::caps::bounding(),
    });
    println!("{}", serde_json::to_string_pretty(&facts).map_err(|error| error.to_string())?);
    Ok(())
}
