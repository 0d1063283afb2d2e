//! The demonstration images, as made from Debian's packages, are real images. Needs root and Debian's archive.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests run commands, and fail where they stand")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use killick_image::Store;

#[test]
fn the_demonstration_images_are_imported_under_the_tutorials_names_and_run() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let made = Command::new(repository.join("scripts/demo-images")).arg("--no-import").status().unwrap();
    assert!(made.success(), "scripts/demo-images failed");
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    for name in ["busybox", "nginx"] {
        let tar = fs::File::open(repository.join(format!(".cache/images/{name}.tar"))).unwrap();
        assert_eq!(store.import(tar, None).unwrap().len(), 1);
    }
    for name in ["registry.cn-beijing.aliyuncs.com/google_registry/busybox:1.24", "killick.local/busybox:1"] {
        let busybox = store.resolve(name).unwrap().unwrap();
        assert_eq!(busybox.config.cmd, ["sh"]);
        assert_eq!(fs::metadata(busybox.layers[0].join("tmp")).unwrap().permissions().mode() & 0o7777, 0o1777);
        let said = Command::new("chroot")
            .arg(&busybox.layers[0])
            .args(["/bin/sh", "-c", "echo hello; id -un"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "hello\nroot\n");
    }
    let nginx = store.resolve("registry.cn-beijing.aliyuncs.com/google_registry/nginx:1.17").unwrap().unwrap();
    assert_eq!(nginx.config.cmd, ["/usr/sbin/nginx", "-g", "daemon off;"]);
    // `-t` loads every library, the configuration and the user's name.
    let said = Command::new("chroot")
        .arg(&nginx.layers[0])
        .args(["/usr/sbin/nginx", "-t", "-g", "error_log /var/log/nginx/error.log;"])
        .output()
        .unwrap();
    let log = fs::read_to_string(nginx.layers[0].join("var/log/nginx/error.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&said.stderr).into_owned() + &log;
    assert!(text.contains("syntax is ok"), "{text}");
    assert!(nginx.layers[0].join("usr/share/nginx/html/index.html").exists());
    assert_eq!(store.list().unwrap().len(), 4);
}
