//! What becomes of requests without anybody's doing: taken in, refused when their time is over, asked anew,
//! forgotten. Everything here happens under the core's lock; who is to go on is handed back, and goes on when the log
//! has it.

use std::collections::{BTreeMap, BTreeSet};

use agentguard_common::{
    Outcome,
    approval::{GRANTED, Grant, GrantKey, REFUSED, Request, RequestKey, WAITING, cause, grant},
};

use super::{super::core::Core, KEPT_NS, Process, Prompt, STRAY_NS, USABLE_NS, process, waits};
use crate::{
    agents::Entry,
    api::types::{AgentState, GoneWhy},
    causes,
    event::{clock::boot_ns, enrich},
    ring::Record,
    tables,
};

/// An answer as it goes into the map.
#[derive(Clone, Copy)]
pub(super) struct Word {
    state: u64,
    pub until_ns: u64,
    cause: u8,
}

impl Word {
    /// Once, from now on.
    pub fn yes() -> Self {
        Self {
            state: GRANTED,
            until_ns: boot_ns().saturating_add(USABLE_NS),
            cause: 0,
        }
    }

    pub fn no(cause: u8) -> Self {
        Self {
            state: REFUSED,
            cause,
            ..Self::yes()
        }
    }

    /// A yes that is over: the kernel judges the call as if it had never been asked about.
    pub fn again() -> Self {
        Self {
            state: GRANTED,
            until_ns: 1,
            cause: 0,
        }
    }
}

impl Core {
    /// Takes over what an earlier daemon left. Whoever has an answer goes on.
    pub fn adopt_requests(&mut self) -> Result<(), tables::Error> {
        let now = boot_ns();
        for (key, grant) in self.tables.grants()? {
            let ended = self.agents.get(key.agent).is_none_or(is_over);
            if ended || grant.until_boot_ns <= now {
                self.tables.remove_grant(key)?;
            } else {
                self.approvals.grants.insert(key, grant);
            }
        }
        // The policy was installed anew since.
        self.keep_rule_grants();
        let mut ids = BTreeSet::new();
        let mut requests = self.tables.requests()?;
        // The first that asked gives a question its number.
        requests.sort_by_key(|(_, request)| request.id());
        // Whoever goes on may ask for something else before the first beat.
        self.tables.set_heartbeat(now);
        for (key, request) in requests {
            let Some(process) = Process::of(key) else {
                self.unreachable(key, &request);
                continue;
            };
            if request.state() != WAITING {
                process.resume();
                let until = now.saturating_add(USABLE_NS);
                self.approvals.leave(key, request.id(), until);
                continue;
            }
            ids.insert(request.id());
            match self.approvals.files.read(request.id()) {
                Some(record) => self.go_on(&record),
                None => {
                    let until = now.saturating_add(STRAY_NS);
                    self.approvals.strays.insert(key, (request.id(), until));
                }
            }
        }
        if let Err(error) = self.approvals.files.retain(|id| ids.contains(&id)) {
            tracing::warn!("cannot remove old requests: {error}");
        }
        Ok(())
    }

    /// A process that has ended waits for nothing; one that can't be had a descriptor of is tried again later.
    fn unreachable(&mut self, key: RequestKey, request: &Request) {
        if process::is(key.pid, key.start_ns) {
            tracing::error!(
                "cannot have a descriptor of process {}, which is held",
                key.pid
            );
            let deadline = request.deadline_boot_ns.max(boot_ns());
            let later = deadline.saturating_add(STRAY_NS);
            self.approvals.leave(key, request.id(), later);
        } else {
            self.forget(key);
        }
    }

    fn go_on(&mut self, record: &Record) {
        for process in self.asked(record) {
            process.resume();
        }
    }

    /// The kernel holds a process: asks, unless there is an answer.
    pub fn asked(&mut self, record: &Record) -> Vec<Process> {
        let Some(note) = record.note.filter(|_| record.held) else {
            return Vec::new();
        };
        let (key, id) = (note.key, note.request.id());
        self.approvals.strays.remove(&key);
        match self.approvals.waiters.get(&key) {
            Some(waiter) if waiter.id == id => return Vec::new(),
            // What it asked before ran out while somebody else had it go on.
            Some(_) => {
                if let Some((_, Some(prompt))) = self.approvals.take(key) {
                    self.tell_end(&prompt, GoneWhy::Expired, "nobody answered in time");
                }
            }
            None => {}
        }
        let Some(process) = Process::of(key) else {
            self.unreachable(key, &note.request);
            return Vec::new();
        };
        match self.tables.request(key) {
            Ok(current) if waits(current.as_ref(), id) => {}
            // A later question of the same call comes with a record of its own.
            Ok(Some(current)) if current.state() == WAITING => return Vec::new(),
            // Answered meanwhile, or forgotten: made again, it is judged again.
            Ok(_) => {
                self.approvals.files.remove(id);
                return vec![process];
            }
            Err(error) => {
                tracing::error!("{}", causes::text(&error));
                return Vec::new();
            }
        }
        let event = enrich::event(
            record,
            self.installer.names(),
            &self.clock,
            &mut self.approvals.processes,
        );
        let prompt = Prompt::new(record, &note, event);
        if self.agents.get(key.agent).is_none_or(is_over) {
            return self.answer(key, id, Word::again(), Some(process));
        }
        let standing = self.approvals.standing(&prompt, boot_ns());
        if let Some((of, grant)) = standing {
            let word = match of.kind {
                grant::REFUSAL => Word::no(grant.cause),
                _ => Word::yes(),
            };
            return self.answer(key, id, word, Some(process));
        }
        self.approvals.add(key, &note.request, process, prompt);
        Vec::new()
    }

    /// Puts an answer into the map. Whoever it is for is to go on when it is there, and also when nothing waits
    /// under the id any more.
    pub(super) fn answer(
        &mut self,
        key: RequestKey,
        id: u64,
        word: Word,
        process: Option<Process>,
    ) -> Vec<Process> {
        self.approvals.files.remove(id);
        let request = match self.tables.request(key) {
            Ok(Some(request)) if waits(Some(&request), id) => request,
            Ok(_) => return process.into_iter().collect(),
            Err(error) => {
                tracing::error!("{}", causes::text(&error));
                return Vec::new();
            }
        };
        let answer = Request {
            word: Request::word(id, word.state),
            until_boot_ns: word.until_ns,
            cause: word.cause,
            ..request
        };
        match self.tables.answer(key, answer) {
            Ok(_) => {
                let until = boot_ns().saturating_add(USABLE_NS + KEPT_NS);
                self.approvals.leave(key, id, until);
                process.into_iter().collect()
            }
            Err(error) => {
                // FAIL-CLOSED: it waits until its time is over.
                tracing::error!("{}", causes::text(&error));
                Vec::new()
            }
        }
    }

    /// Answers everyone who waits with a prompt, also those whose record is still on its way.
    pub(super) fn answer_all(&mut self, prompt: &Prompt, word: Word) -> Vec<Process> {
        let mut waiting: BTreeMap<u64, RequestKey> = BTreeMap::new();
        match self.tables.requests() {
            Ok(requests) => waiting.extend(
                requests
                    .into_iter()
                    .filter(|(key, request)| {
                        request.state() == WAITING && key.grant(grant::OBJECT) == prompt.object
                    })
                    .map(|(key, request)| (request.id(), key)),
            ),
            Err(error) => tracing::error!("{}", causes::text(&error)),
        }
        waiting.extend(prompt.waiting.iter().map(|(id, key)| (*id, *key)));
        let mut processes = Vec::new();
        for (id, key) in waiting {
            let known = self.approvals.take(key).map(|(waiter, _)| waiter.process);
            let process = known.or_else(|| Process::of(key));
            processes.extend(self.answer(key, id, word, process));
        }
        self.approvals.prompts.remove(&prompt.id);
        processes
    }

    /// Does what is due: questions whose time is over, and what is no longer needed.
    pub fn due(&mut self) -> Vec<Process> {
        let now = boot_ns();
        let mut processes = Vec::new();
        let over: Vec<RequestKey> = self
            .approvals
            .waiters
            .iter()
            .filter(|(_, waiter)| waiter.deadline_ns.saturating_add(super::AFTER_NS) <= now)
            .map(|(key, _)| *key)
            .collect();
        for key in over {
            let Some((waiter, prompt)) = self.approvals.take(key) else {
                continue;
            };
            // The kernel refuses it by its own clock.
            self.approvals
                .leave(key, waiter.id, now.saturating_add(KEPT_NS));
            processes.push(waiter.process);
            if let Some(prompt) = prompt {
                // Shells try a program once for each name that it has in their path.
                if let Err(refusal) = self.cool_down(&prompt, cause::TIMEOUT) {
                    tracing::error!("{}", refusal.message);
                }
                self.tell_end(&prompt, GoneWhy::Expired, "nobody answered in time");
            }
        }
        let strays = &mut self.approvals.strays;
        for (key, (id, _)) in strays
            .extract_if(|_, (_, until)| *until <= now)
            .collect::<Vec<_>>()
        {
            // FAIL-CLOSED: nobody could say what they answer.
            let process = Process::of(key);
            processes.extend(self.answer(key, id, Word::no(cause::UNAVAILABLE), process));
        }
        let left = &mut self.approvals.left;
        for (key, (id, _)) in left
            .extract_if(|_, (_, until)| *until <= now)
            .collect::<Vec<_>>()
        {
            let request = self.tables.request(key);
            if let Ok(Some(request)) = request
                && request.id() == id
            {
                self.forget(key);
                // Nobody is left stopped whom nobody knows of.
                processes.extend(Process::of(key));
            }
        }
        let grants = &mut self.approvals.grants;
        let over = grants.extract_if(|_, grant| grant.until_boot_ns <= now);
        for (key, _) in over.collect::<Vec<_>>() {
            self.remove_grant(key);
        }
        processes
    }

    pub(super) fn remove_grant(&mut self, key: GrantKey) {
        self.approvals.grants.remove(&key);
        if let Err(error) = self.tables.remove_grant(key) {
            tracing::error!("{}", causes::text(&error));
        }
    }

    /// Removes a request from the map.
    fn forget(&mut self, key: RequestKey) {
        if let Err(error) = self.tables.remove_request(key) {
            tracing::error!("{}", causes::text(&error));
        }
    }

    /// A process that waited has ended.
    pub fn process_ended(&mut self, key: RequestKey) {
        self.forget(key);
        if let Some((_, Some(prompt))) = self.approvals.take(key) {
            self.tell_end(&prompt, GoneWhy::ProcessGone, "the process ended");
        }
    }

    /// An agent has ended, or is judged no longer.
    pub fn agent_over(&mut self, agent: u64) {
        let grants: Vec<GrantKey> = self
            .approvals
            .grants
            .keys()
            .filter(|key| key.agent == agent)
            .copied()
            .collect();
        for key in grants {
            self.remove_grant(key);
        }
        let waiting = self.approvals.waiters.keys();
        let keys: Vec<RequestKey> = waiting.filter(|key| key.agent == agent).copied().collect();
        for key in keys {
            self.ask_again(key, GoneWhy::AgentGone, "the agent ended");
        }
    }

    /// Has a call judged anew.
    fn ask_again(&mut self, key: RequestKey, why: GoneWhy, reason: &str) {
        let Some((waiter, prompt)) = self.approvals.take(key) else {
            return;
        };
        for process in self.answer(key, waiter.id, Word::again(), Some(waiter.process)) {
            process.resume();
        }
        if let Some(prompt) = prompt {
            self.tell_end(&prompt, why, reason);
        }
    }

    /// After an installation: what waits under profiles that are others now is judged anew.
    pub fn ask_anew(&mut self, changed: &BTreeSet<String>) {
        self.keep_rule_grants();
        let keys: Vec<RequestKey> = self
            .approvals
            .waiters
            .iter()
            .filter(|(_, waiter)| {
                let prompt = self.approvals.prompts.get(&waiter.prompt);
                prompt.is_some_and(|prompt| changed.contains(&prompt.shown.profile))
            })
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.ask_again(key, GoneWhy::Reloaded, "the policy was changed");
        }
    }

    /// Rules have other numbers in another installation.
    pub(super) fn keep_rule_grants(&mut self) {
        let old: Vec<(GrantKey, Grant)> = self
            .approvals
            .grants
            .iter()
            .filter(|(key, _)| key.kind == grant::RULE)
            .map(|(key, grant)| (*key, *grant))
            .collect();
        for (key, grant) in old {
            let now = self
                .agents
                .get(key.agent)
                .and_then(|agent| self.installer.profiles().get(&agent.profile.name));
            let Some(now) = now.filter(|now| now.install != key.install) else {
                continue;
            };
            let new: Vec<GrantKey> = if key.rule == Outcome::DEFAULT_RULE {
                vec![GrantKey {
                    install: now.install,
                    ..key
                }]
            } else {
                let then = self.installer.names().profile(key.install, now.slot);
                let rule = then.and_then(|then| then.rules.get(key.rule as usize).cloned());
                let rules = now.names.rules.iter().enumerate();
                rules
                    .filter(|(_, other)| rule.as_ref().is_some_and(|rule| rule.id == other.id))
                    .map(|(index, _)| GrantKey {
                        install: now.install,
                        rule: index as u32,
                        ..key
                    })
                    .collect()
            };
            for new in new {
                if let Err(refusal) = self.stand(new, grant.id, grant.until_boot_ns, grant.cause) {
                    // FAIL-CLOSED: it is asked again.
                    tracing::error!("{}", refusal.message);
                }
            }
            self.remove_grant(key);
        }
    }
}

/// Whether an agent's tasks are judged no longer.
fn is_over(agent: &Entry) -> bool {
    agent.state == AgentState::Released
}
