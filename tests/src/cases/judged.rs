//! A profile and its files that the cases about commands share.

use std::{fs, path::Path};

use anyhow::Result;

/// A file that may not be opened and a folder of which nothing may be run.
pub const POLICY: &str = r#"
[[deny]]
id = "secret"
file = "{dir}/secret/**"
because = "Not for agents."

[[deny]]
id = "denied"
exec = "{dir}/denied/**"
"#;

/// # Errors
/// When the files can't be made.
pub fn files(dir: &Path) -> Result<()> {
    for folder in ["secret", "open"] {
        fs::create_dir_all(dir.join(folder))?;
        fs::write(dir.join(folder).join("key"), "key\n")?;
    }
    fs::create_dir_all(dir.join("denied"))?;
    fs::copy("/bin/busybox", dir.join("denied/true"))?;
    Ok(())
}
