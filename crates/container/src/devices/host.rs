//! The host's device nodes, for privileged containers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

/// Not devices of the host but of one mount of it, as containerd leaves them out.
const LEFT_OUT: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

/// A host has hundreds; more than this is a mistake somewhere in `/dev`.
const DEVICES_MAX: usize = 4_096;
const DEPTH_MAX: u32 = 8;

/// Every character and block device below `/dev`, sorted by path. What cannot be read is left out; links are not
/// followed.
pub fn of_host() -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), 0, &mut found);
    found.sort_by_key(|device| device.path().clone());
    found
}

fn collect(dir: &Path, depth: u32, found: &mut Vec<LinuxDevice>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let kind = metadata.file_type();
        let left_out = entry.file_name().to_str().is_some_and(|name| LEFT_OUT.contains(&name));
        if kind.is_dir() && !left_out && depth < DEPTH_MAX {
            collect(&path, depth + 1, found);
        }
        let kind = match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) => LinuxDeviceType::C,
            (_, true) => LinuxDeviceType::B,
            (false, false) => continue,
        };
        // The console is the container's own.
        if path == Path::new("/dev/console") || found.len() >= DEVICES_MAX {
            continue;
        }
        let device = LinuxDeviceBuilder::default()
            .path(path)
            .typ(kind)
            .major(major(metadata.rdev()) as i64)
            .minor(minor(metadata.rdev()) as i64)
            .file_mode(metadata.mode() & 0o7777)
            .uid(metadata.uid())
            .gid(metadata.gid())
            .build();
        found.extend(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_device_is_among_the_hosts() {
        let devices = of_host();
        let null = devices.iter().find(|d| d.path() == Path::new("/dev/null")).unwrap();
        assert_eq!((null.typ(), null.major(), null.minor()), (LinuxDeviceType::C, 1, 3));
        assert!(devices.iter().all(|d| !d.path().starts_with("/dev/pts")));
    }
}
