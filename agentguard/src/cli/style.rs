//! How the command line looks: colours by what they mean, tables, times. Whether colours are shown is
//! decided where the output is opened.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::{Timestamp, tz::TimeZone};

use crate::render::safe;

/// As it should be.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Wrong, or denied.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Not wrong, but to be known.
pub const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// What stands out.
pub const STRONG: Style = Style::new().bold();
/// What steps back.
pub const FAINT: Style = Style::new().dimmed();

/// A borderless table with these headings.
pub fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    // Not wrapped: a path that is broken over lines can't be copied.
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Writes a table without spaces at the ends of its lines, its headings in bold.
pub fn write_table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    for (number, line) in table.lines().enumerate() {
        let line = line.trim_end();
        if number == 0 {
            writeln!(out, "{STRONG}{line}{STRONG:#}")?;
        } else {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// A timestamp (RFC 3339) in the local time zone, to the second; as it is when it is none.
pub fn local_time(timestamp: &str) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(time) => time
            .to_zoned(TimeZone::system())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => safe(timestamp).to_string(),
    }
}
