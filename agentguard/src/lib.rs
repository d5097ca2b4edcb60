//! AgentGuard.
