//! The kernel's own tests of Landlock, built on the host from the sources that Debian ships with one of the
//! kernels of the matrix.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::{
    archive::{Apt, Mirror},
    cache,
};
use crate::process;

/// KERNEL: the sources of 6.18 left the archive with its successor; those of 6.12 know all that 6.1 has.
const SOURCE: &str = "linux-source-6.12";
/// A header and a static library that the tests want.
const LIBRARY: &str = "libcap-dev";

/// `$1`: what the package of the sources holds; `$2`: what that of the library holds; `$3`: where to.
const BUILD: &str = r#"
mkdir "$3/tree" "$3/include"
tar --extract --xz --file "$1"/usr/src/linux-source-*.tar.xz --directory "$3/tree" --strip-components 1 --wildcards \
    '*/tools/testing/selftests/landlock' '*/tools/testing/selftests/*.h' '*/tools/include' \
    '*/include/uapi/linux/landlock.h' '*/include/uapi/linux/fs.h'
mkdir "$3/include/linux"
cp "$3"/tree/include/uapi/linux/*.h "$3/include/linux/"
cd "$3/tree/tools/testing/selftests/landlock"
for source in *.c; do
    cc -w -O1 -static -I "$3/include" -I "$2/usr/include" -I ../../../include -o "$3/${source%.c}" "$source" \
        -L "$2/usr/lib/x86_64-linux-gnu" -lcap -lpthread
done
rm -r "$3/tree" "$3/include"
"#;

/// The folder of the built tests, made now when it is not cached.
///
/// # Errors
/// When the packages can't be had, or the tests not built.
pub fn folder() -> Result<PathBuf> {
    let inputs = [SOURCE, LIBRARY, BUILD].map(str::as_bytes);
    cache::directory("selftests", &inputs, |target| {
        eprintln!("guest: building the kernel's tests of Landlock; the sources are 150 MB");
        let _lock = cache::lock("apt")?;
        let apt = Apt::updated(&Mirror::of_this_machine())?;
        let unpacked = |package: &str| -> Result<PathBuf> {
            let folder = target.join(package);
            apt.unpack(package, &folder)?;
            Ok(folder)
        };
        let (source, library) = (unpacked(SOURCE)?, unpacked(LIBRARY)?);
        let mut build = Command::new("sh");
        build.args(["-euc", BUILD, "build"]);
        process::run_quietly(build.args([&source, &library]).arg(target))
            .context("cannot build the kernel's tests of Landlock")?;
        cache::remove(&source)?;
        cache::remove(&library)
    })
}
