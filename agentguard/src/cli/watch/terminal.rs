//! The terminal while a person is asked: taken over, drawn on, and given back however it ends.

use std::{
    io::{self, Write as _},
    panic,
    sync::Once,
};

use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{DisableBracketedPaste, EnableBracketedPaste},
    execute, queue,
    style::Print,
    terminal::{
        self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap,
        EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    },
};

/// Columns and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// A terminal that was taken over.
#[derive(Debug)]
pub struct Terminal {
    plain: bool,
}

impl Terminal {
    pub fn enter() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                give_back();
                before(info);
                // Whichever thread it was: without it nobody would be asked, or heard.
                std::process::exit(101);
            }));
        });
        terminal::enable_raw_mode()?;
        let this = Self {
            plain: anstream::AutoStream::choice(&io::stdout()) == anstream::ColorChoice::Never,
        };
        // Pasted text must not be taken for keys. A line that is longer than was thought is cut and not
        // wrapped, so that nothing gets to where a line begins.
        execute!(
            io::stdout(),
            EnterAlternateScreen,
            EnableBracketedPaste,
            DisableLineWrap,
            Hide
        )?;
        Ok(this)
    }

    /// Draws the lines that `screen` makes for the size that the terminal has now.
    pub fn draw(&mut self, screen: impl FnOnce(Size) -> Vec<String>) -> io::Result<()> {
        let (columns, rows) = terminal::size()?;
        let lines = screen(Size {
            columns: columns.into(),
            rows: rows.into(),
        });
        let mut out = io::stdout().lock();
        queue!(out, BeginSynchronizedUpdate)?;
        for (row, line) in (0..rows).zip(lines) {
            let line = if self.plain {
                anstream::adapter::strip_str(&line).to_string()
            } else {
                line
            };
            queue!(
                out,
                MoveTo(0, row),
                Clear(ClearType::CurrentLine),
                Print(line)
            )?;
        }
        queue!(out, Clear(ClearType::FromCursorDown), EndSynchronizedUpdate)?;
        out.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Leaves the terminal as it was. What fails here can't be helped.
fn give_back() {
    let _ = execute!(
        io::stdout(),
        EndSynchronizedUpdate,
        EnableLineWrap,
        DisableBracketedPaste,
        Show,
        LeaveAlternateScreen
    );
    let _ = terminal::disable_raw_mode();
}
