//! The kernel programs' own log (aya-log), carried into tracing. Off unless asked for: then their
//! level is 0 in read-only data, and the verifier removes every statement of it.

use anyhow::Context as _;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// How much the kernel programs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// The number that the programs know it by (`aya_log_common::Level`).
    pub const fn number(self) -> u8 {
        match self {
            Self::Error => 1,
            Self::Warn => 2,
            Self::Info => 3,
            Self::Debug => 4,
            Self::Trace => 5,
        }
    }
}

/// Carries what the programs say, for as long as the runtime lives. `program` is the kernel's id of
/// one of them.
pub fn follow(program: u32) -> anyhow::Result<()> {
    let logger =
        EbpfLogger::init_from_id(program).context("cannot open the kernel programs' log")?;
    // SAFETY: the logger owns its descriptor, which neither changes nor closes while it lives.
    let mut logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }
        .context("cannot wait for the kernel programs' log")?;
    tokio::spawn(async move {
        loop {
            logger.get_mut().flush();
            match logger.readable_mut().await {
                Ok(mut guard) => guard.clear_ready(),
                Err(error) => {
                    tracing::error!("cannot wait for the kernel programs' log: {error}");
                    return;
                }
            }
        }
    });
    Ok(())
}
