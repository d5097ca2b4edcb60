//! The last lines of the event log, read from its end. For when no daemon answers; nothing is
//! followed here, because without a daemon nothing is written.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// How much is read at once, in bytes.
const CHUNK: u64 = 64 * 1024;

/// The last `count` lines for which `wanted` answers with something, oldest first. A last line without
/// an end was torn by a crash and is left out.
pub fn last_lines<T>(
    path: &Path,
    count: usize,
    mut wanted: impl FnMut(&str) -> Option<T>,
) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    let mut file = File::open(path)?;
    let mut position = file.seek(SeekFrom::End(0))?;
    // What was read of the line that begins in front of `position`.
    let mut tail: Vec<u8> = Vec::new();
    let mut torn = true;
    while position > 0 && found.len() < count {
        let len = CHUNK.min(position);
        position -= len;
        file.seek(SeekFrom::Start(position))?;
        let mut chunk = Vec::new();
        file.by_ref().take(len).read_to_end(&mut chunk)?;
        chunk.append(&mut tail);
        let mut lines = chunk.split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default().to_vec();
        for line in lines.rev() {
            if std::mem::take(&mut torn) {
                continue;
            }
            if found.len() < count {
                found.extend(wanted(&String::from_utf8_lossy(line)));
            }
        }
        tail = first;
    }
    if position == 0 && !torn && found.len() < count {
        found.extend(wanted(&String::from_utf8_lossy(&tail)));
    }
    found.reverse();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn last(content: &[u8], count: usize) -> Vec<String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(content).expect("it can be written");
        last_lines(file.path(), count, |line| {
            (!line.starts_with('#')).then(|| line.to_owned())
        })
        .expect("it can be read")
    }

    #[test]
    fn the_last_lines_come_in_order() {
        assert_eq!(last(b"a\nb\nc\n", 2), ["b", "c"]);
        assert_eq!(last(b"a\nb\nc\n", 9), ["a", "b", "c"]);
        assert_eq!(last(b"a\nb\nc\n", 0), [""; 0]);
        assert_eq!(last(b"", 3), [""; 0]);
    }

    #[test]
    fn a_torn_last_line_is_left_out() {
        assert_eq!(last(b"a\nb\nto", 2), ["a", "b"]);
        assert_eq!(last(b"torn", 2), [""; 0]);
    }

    #[test]
    fn lines_that_are_not_wanted_do_not_count() {
        assert_eq!(last(b"a\n#\nb\n#\n#\n", 2), ["a", "b"]);
    }

    #[test]
    fn lines_across_chunks_are_whole() {
        let long = "x".repeat(CHUNK as usize * 2 + 17);
        let mut content = String::new();
        for number in 0..50_000 {
            content.push_str(&format!("line {number}\n"));
        }
        content.push_str(&format!("{long}\nend\n"));
        let lines = last(content.as_bytes(), 40_000);
        assert_eq!(lines.len(), 40_000);
        assert_eq!(lines[39_999], "end");
        assert_eq!(lines[39_998], long);
        assert_eq!(lines[0], "line 10002");
        assert_eq!(last(content.as_bytes(), 100_000).len(), 50_002);
    }
}
