//! A profile and its files that many cases share: a file, a program and an address that are denied, and
//! their twins that are not.

use std::{fs, path::Path};

use anyhow::Result;

/// What is below `secret` is denied; of the network, one service is allowed.
pub const SECRET: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"

[[deny]]
id = "secret-program"
exec = "{dir}/secret/**"

[[allow]]
id = "service"
connect = "tcp://192.0.2.1:8080"
"#;

/// # Errors
/// When the files can't be made.
pub fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        let folder = dir.join(folder);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("key"), "content\n")?;
        fs::copy("/bin/busybox", folder.join("true"))?;
    }
    Ok(())
}
