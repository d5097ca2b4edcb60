//! What happens by itself: requests that come, times that are over, the daemon's sign of life. It comes from the
//! task that asks, so that nothing is held while nobody would be asked.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;

use super::{super::core::Core, Notice, Process, Who};
use crate::{
    api::types::{Decide, Decided, Refusal, RefusalCode},
    event::clock::boot_ns,
};

/// How often the kernel is told that somebody asks.
const BEAT: Duration = Duration::from_secs(1);
/// How long those who were answered wait for the log.
const LOGGED: Duration = Duration::from_secs(1);

/// Asks until nobody is left who could be told of requests.
pub async fn serve(core: Arc<Mutex<Core>>, mut notices: mpsc::UnboundedReceiver<Notice>) {
    let due = {
        let core = core.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&core.approvals.due)
    };
    let mut beat = tokio::time::interval(BEAT);
    loop {
        let next = {
            let core = core.lock().unwrap_or_else(PoisonError::into_inner);
            core.approvals.next_due()
        };
        let wait = next.map(|next| Duration::from_nanos(next.saturating_sub(boot_ns())));
        let processes = tokio::select! {
            notice = notices.recv() => match notice {
                None => return,
                Some(Notice::Asked(record)) => with(&core, move |core| core.asked(&record)).await,
                Some(Notice::Ended(key)) => {
                    with(&core, move |core| core.process_ended(key)).await;
                    None
                }
            },
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {
                with(&core, Core::due).await
            }
            () = due.notified() => None,
            _ = beat.tick() => {
                with(&core, |core| core.tables.set_heartbeat(boot_ns())).await;
                None
            }
        };
        finish(&core, processes.unwrap_or_default()).await;
    }
}

/// Answers a request.
///
/// # Errors
///
/// When there is none, or the answer can't be carried out; then it still waits.
pub async fn decide(
    core: &Arc<Mutex<Core>>,
    id: u64,
    decide: Decide,
    who: Who,
) -> Result<Decided, Refusal> {
    let done = with(core, move |core| core.decide(id, &decide, &who)).await;
    let (decided, processes) = done.unwrap_or_else(|| {
        Err(Refusal {
            code: RefusalCode::Internal,
            message: "the daemon failed while answering".to_owned(),
            diagnostics: None,
        })
    })?;
    finish(core, processes).await;
    Ok(decided)
}

/// Lets processes go on once the log has what was said. A log that can't be written holds nobody up.
async fn finish(core: &Arc<Mutex<Core>>, processes: Vec<Process>) {
    if processes.is_empty() {
        return;
    }
    let flushed = {
        let core = core.lock().unwrap_or_else(PoisonError::into_inner);
        super::super::flush(&core)
    };
    let _ = tokio::time::timeout(LOGGED, flushed).await;
    for process in processes {
        process.resume();
    }
}

/// Does something with the core, away from the threads that serve. `None` after an inner failure.
async fn with<T: Send + 'static>(
    core: &Arc<Mutex<Core>>,
    work: impl FnOnce(&mut Core) -> T + Send + 'static,
) -> Option<T> {
    let core = Arc::clone(core);
    let done = tokio::task::spawn_blocking(move || {
        work(&mut core.lock().unwrap_or_else(PoisonError::into_inner))
    })
    .await;
    done.inspect_err(|error| tracing::error!("an inner failure: {error}"))
        .ok()
}
