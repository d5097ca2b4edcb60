//! Answers, and what they come to. Everything here happens under the core's lock; who is to go on is handed back, and
//! goes on when the log has it.

use std::time::Duration;

use agentguard_common::{
    approval::{Grant, GrantKey, cause, grant},
    event::Reason,
};

use super::{super::core::Core, Process, Prompt, always, requests::Word, rule_key, user};
use crate::{
    api::types::{
        self, Answered, Change, Decide, Decided, GoneWhy, How, Refusal, RefusalCode, Scope,
    },
    causes,
    event::{Event, approval::Approval, clock::boot_ns},
    policy::overlay,
};

/// Longest time that one answer can hold.
const MAX_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Longest reason, in bytes.
const REASON_BYTES: usize = 1000;

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub uid: u32,
    /// The user's name, or the number where it has none.
    pub name: String,
}

impl Who {
    pub fn of(uid: u32) -> Self {
        Self {
            uid,
            name: user(uid).unwrap_or_else(|| uid.to_string()),
        }
    }
}

impl Core {
    /// Answers a request. The processes go on when the log has it.
    pub fn decide(
        &mut self,
        id: u64,
        decide: &Decide,
        who: &Who,
    ) -> Result<(Decided, Vec<Process>), Refusal> {
        let bad = |message: String| Refusal {
            code: RefusalCode::BadRequest,
            message,
            diagnostics: None,
        };
        if decide
            .reason
            .as_ref()
            .is_some_and(|reason| reason.len() > REASON_BYTES)
        {
            return Err(bad(format!("a reason has {REASON_BYTES} bytes at most")));
        }
        if !decide.approve && decide.scope != Scope::Once {
            return Err(bad(
                "a no is to the one request, and has no other scope".to_owned()
            ));
        }
        if let Scope::For(seconds) = decide.scope
            && !(1..=MAX_FOR.as_secs()).contains(&seconds)
        {
            return Err(bad(format!(
                "an answer holds from 1 to {} seconds, not for {seconds}",
                MAX_FOR.as_secs()
            )));
        }
        let Some(prompt) = self.approvals.prompts.remove(&id) else {
            return Err(Refusal {
                code: RefusalCode::UnknownRequest,
                message: format!("no request with the number {id} waits for an answer"),
                diagnostics: None,
            });
        };
        match self.carry_out(&prompt, decide, who) {
            Ok((diff, processes)) => Ok((
                Decided {
                    id,
                    approved: decide.approve,
                    scope: decide.scope,
                    diff,
                },
                processes,
            )),
            Err(refusal) => {
                self.approvals.prompts.insert(id, prompt);
                Err(refusal)
            }
        }
    }

    /// Does what an answer says. What is changed by `always`, and who is to go on.
    fn carry_out(
        &mut self,
        prompt: &Prompt,
        decide: &Decide,
        who: &Who,
    ) -> Result<(Option<String>, Vec<Process>), Refusal> {
        let now = boot_ns();
        if !decide.approve {
            self.cool_down(prompt, cause::PERSON)?;
            let processes = self.answer_all(prompt, Word::no(cause::PERSON));
            self.tell_answer(prompt, decide, who, processes.len());
            return Ok((None, processes));
        }
        match decide.scope {
            Scope::Once => {
                let processes = self.answer_all(prompt, Word::yes());
                self.tell_answer(prompt, decide, who, processes.len());
                Ok((None, processes))
            }
            Scope::For(seconds) => {
                let until = now.saturating_add(seconds.saturating_mul(1_000_000_000));
                self.stand(prompt.object, prompt.id, until, 0)?;
                let mut word = Word::yes();
                word.until_ns = word.until_ns.min(until);
                let processes = self.answer_all(prompt, word);
                self.tell_answer(prompt, decide, who, processes.len());
                Ok((None, processes))
            }
            Scope::Rule => {
                for key in self.rule_keys(prompt) {
                    self.stand(key, prompt.id, u64::MAX, 0)?;
                }
                let mut processes = self.answer_all(prompt, Word::yes());
                self.tell_answer(prompt, decide, who, processes.len());
                for other in self.same_rule(prompt, false) {
                    let more = self.answer_all(&other, Word::yes());
                    self.tell_answer(&other, decide, who, more.len());
                    processes.extend(more);
                }
                Ok((None, processes))
            }
            Scope::Always => {
                let diff = self.allow_always(prompt, decide, who)?;
                let mut processes = self.answer_all(prompt, Word::again());
                self.tell_answer(prompt, decide, who, processes.len());
                for other in self.same_rule(prompt, true) {
                    processes.extend(self.answer_all(&other, Word::again()));
                    self.approvals.gone(&other, GoneWhy::Reloaded);
                }
                Ok((Some(diff), processes))
            }
        }
    }

    /// Has the same question be a no for a while, without anybody being asked.
    pub(super) fn cool_down(&mut self, prompt: &Prompt, cause: u8) -> Result<(), Refusal> {
        let agent = self.agents.get(prompt.object.agent);
        let cooldown_ms = agent
            .map(|agent| agent.profile.slot)
            .and_then(|slot| self.tables.approvals(slot))
            .map_or(0, |approvals| approvals.cooldown_ms);
        if cooldown_ms == 0 {
            return Ok(());
        }
        let refusal = GrantKey {
            kind: grant::REFUSAL,
            ..prompt.object
        };
        let until = boot_ns().saturating_add(u64::from(cooldown_ms) * 1_000_000);
        self.stand(refusal, prompt.id, until, cause)
    }

    /// Takes out the other questions of the same agent, or of all agents of its profile, that the same rule asks.
    fn same_rule(&mut self, prompt: &Prompt, of_profile: bool) -> Vec<Prompt> {
        let key = |prompt: &Prompt| {
            let object = &prompt.object;
            let agent = if of_profile { 0 } else { object.agent };
            // A rule is the same rule in each installation; a default is told by its action.
            let key = GrantKey {
                install: 0,
                rule: 0,
                ..rule_key(&prompt.request, agent, object.action)
            };
            let rule = prompt.rule().map(str::to_owned);
            (prompt.shown.profile.clone(), rule, key)
        };
        let wanted = key(prompt);
        let ids: Vec<u64> = self
            .approvals
            .prompts
            .values()
            .filter(|other| key(other) == wanted)
            .map(|other| other.id)
            .collect();
        ids.iter()
            .filter_map(|id| self.approvals.prompts.remove(id))
            .collect()
    }

    /// The keys under which the kernel knows the asking rule now. An overlay may have split it.
    fn rule_keys(&self, prompt: &Prompt) -> Vec<GrantKey> {
        let object = &prompt.object;
        let key = rule_key(&prompt.request, object.agent, object.action);
        let profile = self
            .agents
            .get(object.agent)
            .and_then(|agent| self.installer.profiles().get(&agent.profile.name));
        let Some(profile) = profile else {
            return vec![key];
        };
        let key = GrantKey {
            install: profile.install,
            ..key
        };
        let Some(id) = prompt.rule() else {
            if prompt.request.asking == Reason::System as u8 {
                return vec![key];
            }
            // A default is asked for each verb.
            return (0..8)
                .map(|verb| 1 << verb)
                .filter(|bit| object.verbs & bit != 0)
                .map(|verbs| GrantKey { verbs, ..key })
                .collect();
        };
        profile
            .names
            .rules
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.id == id)
            .map(|(index, _)| GrantKey {
                rule: index as u32,
                ..key
            })
            .collect()
    }

    /// Has something stand for longer than one action.
    pub(super) fn stand(
        &mut self,
        key: GrantKey,
        id: u64,
        until_ns: u64,
        cause: u8,
    ) -> Result<(), Refusal> {
        let grant = Grant {
            until_boot_ns: until_ns,
            id,
            cause,
            ..Grant::default()
        };
        self.tables
            .insert_grant(key, grant)
            .map_err(|error| Refusal {
                code: RefusalCode::Full,
                message: causes::text(&error),
                diagnostics: None,
            })?;
        self.approvals.grants.insert(key, grant);
        self.approvals.due.notify_one();
        Ok(())
    }

    /// Writes the exception and brings it into force, or neither.
    fn allow_always(
        &mut self,
        prompt: &Prompt,
        decide: &Decide,
        who: &Who,
    ) -> Result<String, Refusal> {
        let refuse = |why: String| Refusal {
            code: RefusalCode::PolicyRefused,
            message: format!("cannot allow this for good: {why}"),
            diagnostics: None,
        };
        let thing = prompt
            .thing
            .as_ref()
            .map_err(|why| refuse((*why).to_owned()))?;
        let mut comment = vec![format!(
            "Allowed by {} on {}, when request {} was answered.",
            who.name,
            self.clock.now(),
            prompt.id
        )];
        comment.extend(decide.reason.clone());
        let addition = overlay::addition(prompt.rule(), thing, &comment)
            .map_err(|why| refuse(why.to_string()))?;
        let profile = &prompt.shown.profile;
        let change = always::add(&self.config.policies, profile, &addition)
            .map_err(|error| refuse(format!("the overlay can't be written: {error}")))?;
        let before = self.refused.clone();
        if let Err(refusal) = self.bring_into_force() {
            self.refused = before;
            if let Err(error) = change.take_back() {
                tracing::error!("cannot put the overlay of {profile} back: {error}");
            }
            return Err(Refusal {
                message: format!("cannot allow this for good: {}", refusal.message),
                ..refusal
            });
        }
        self.keep_rule_grants();
        Ok(change.diff)
    }

    /// Writes the event of an answer, and tells followers.
    fn tell_answer(&self, prompt: &Prompt, decide: &Decide, who: &Who, processes: usize) {
        let asked_ns = prompt.request.asked_boot_ns;
        let (scope, seconds) = match decide.scope {
            Scope::Once => ("once", None),
            Scope::For(seconds) => ("for", Some(seconds)),
            Scope::Rule => ("rule", None),
            Scope::Always => ("always", None),
        };
        let action = if decide.approve {
            "approval.granted"
        } else {
            "approval.denied"
        };
        self.emit(self.about(
            prompt,
            action,
            Approval {
                by: Some(who.name.clone()),
                uid: Some(who.uid),
                how: Some(match decide.how {
                    How::Api => "api",
                    How::Cli => "cli",
                    How::Notify => "notify",
                }),
                scope: decide.approve.then_some(scope),
                seconds,
                reason: decide.reason.clone(),
                took_ms: Some(boot_ns().saturating_sub(asked_ns) / 1_000_000),
                processes: Some(processes),
                ..Approval::default()
            },
        ));
        self.approvals.tell(Change::Answered(Answered {
            id: prompt.id,
            approved: decide.approve,
            scope: decide.scope,
            by: who.name.clone(),
        }));
    }

    /// An event about a request.
    fn about(&self, prompt: &Prompt, action: &'static str, approval: Approval) -> Event {
        let asked = prompt.event.approval.as_deref();
        Event {
            time: self.clock.now(),
            action,
            verdict: Some(if action == "approval.granted" {
                "allow"
            } else {
                "deny"
            }),
            approval: Some(Box::new(Approval {
                id: Some(prompt.id),
                action: asked.and_then(|asked| asked.action),
                ..approval
            })),
            ..prompt.event.clone()
        }
    }

    /// What nobody answered.
    pub(super) fn tell_end(&self, prompt: &Prompt, why: GoneWhy, reason: &str) {
        let asked_ns = prompt.request.asked_boot_ns;
        self.emit(self.about(
            prompt,
            "approval.expired",
            Approval {
                reason: Some(reason.to_owned()),
                took_ms: Some(boot_ns().saturating_sub(asked_ns) / 1_000_000),
                ..Approval::default()
            },
        ));
        self.approvals.gone(prompt, why);
    }

    /// The requests that wait, oldest first.
    pub fn pending(&self) -> Vec<types::Approval> {
        self.approvals.prompts().map(Prompt::shown).collect()
    }

    /// The requests of one agent that wait, oldest first.
    pub fn pending_of(&self, agent: u64) -> Vec<types::Approval> {
        let of_agent = |prompt: &&Prompt| prompt.object.agent == agent;
        let prompts = self.approvals.prompts().filter(of_agent);
        prompts.map(Prompt::shown).collect()
    }

    /// What an agent says about its own request.
    pub fn justify(
        &mut self,
        agent: u64,
        id: u64,
        justify: types::Justify,
    ) -> Result<types::Approval, Refusal> {
        let prompt = self.approvals.prompts.get_mut(&id);
        let Some(prompt) = prompt.filter(|prompt| prompt.object.agent == agent) else {
            return Err(Refusal {
                code: RefusalCode::UnknownRequest,
                message: format!("no request of this agent with the number {id} waits"),
                diagnostics: None,
            });
        };
        if justify.text.len() > super::JUSTIFICATION_BYTES {
            return Err(Refusal {
                code: RefusalCode::BadRequest,
                message: format!(
                    "a justification has {} bytes at most",
                    super::JUSTIFICATION_BYTES
                ),
                diagnostics: None,
            });
        }
        prompt.shown.justification = Some(justify.text);
        let shown = prompt.shown();
        self.approvals.tell(Change::Asked(shown.clone()));
        Ok(shown)
    }

    /// The session of an agent.
    pub fn session(&self, agent: u64) -> Option<String> {
        Some(self.agents.get(agent)?.session.to_string())
    }
}
