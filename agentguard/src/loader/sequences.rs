//! Where the kernel counts renames and changes to mounts, which no BTF says: its symbols do. Without them what was allowed
//! is not remembered, and nothing else is different.

use std::{
    fs::File,
    io::{self, BufReader},
};

use agentguard_common::seen::Sequences;

/// The addresses of the kernel's symbols.
const SYMBOLS: &str = "/proc/kallsyms";

/// Why they aren't known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {SYMBOLS}: {0}")]
    Read(#[from] io::Error),
    #[error("{SYMBOLS} has no {0}")]
    NoSymbol(&'static str),
    #[error("{SYMBOLS} shows no addresses")]
    Hidden,
}

/// Looks both up.
pub fn find() -> Result<Sequences, Error> {
    read(BufReader::new(File::open(SYMBOLS)?))
}

fn read(mut symbols: impl io::BufRead) -> Result<Sequences, Error> {
    const NAMES: [&str; 2] = ["rename_lock", "mount_lock"];
    let mut found = [None; 2];
    let mut line = String::new();
    while found.contains(&None) && symbols.read_line(&mut line)? > 0 {
        let mut words = line.split_ascii_whitespace();
        // Modules' symbols have a fourth word, and no business here.
        if let (Some(address), Some(_), Some(name), None) =
            (words.next(), words.next(), words.next(), words.next())
            && let Some(which) = NAMES.iter().position(|wanted| *wanted == name)
        {
            found[which] = u64::from_str_radix(address, 16).ok();
        }
        line.clear();
    }
    let [Some(renames), Some(mounts)] = found else {
        let missing = NAMES
            .into_iter()
            .zip(found)
            .find(|(_, found)| found.is_none());
        return Err(Error::NoSymbol(missing.map_or(NAMES[0], |(name, _)| name)));
    };
    if renames == 0 || mounts == 0 {
        return Err(Error::Hidden);
    }
    Ok(Sequences { renames, mounts })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_found() {
        let text = "ffffffff81000000 T startup_64\nffffffff82000040 D rename_lock\n\
                    ffffffffc0000000 d mount_lock\t[some_module]\nffffffff82000080 T mount_lock\n";
        let found = read(text.as_bytes()).expect("both are there");
        assert_eq!(found.renames, 0xffff_ffff_8200_0040);
        assert_eq!(found.mounts, 0xffff_ffff_8200_0080);
    }

    #[test]
    fn symbols_that_say_nothing() {
        let hidden = "0000000000000000 D rename_lock\n0000000000000000 D mount_lock\n";
        assert!(matches!(read(hidden.as_bytes()), Err(Error::Hidden)));
        let half = "ffffffff82000040 D rename_lock\n";
        assert!(matches!(
            read(half.as_bytes()),
            Err(Error::NoSymbol("mount_lock"))
        ));
        assert!(matches!(
            read(io::empty()),
            Err(Error::NoSymbol("rename_lock"))
        ));
    }
}
