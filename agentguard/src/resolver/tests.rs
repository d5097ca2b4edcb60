//! Tests with a fake upstream resolver on loopback, and with made-up messages. None needs a kernel
//! that redirects.

mod fake;
mod forwarding;
mod fuzz;
mod messages;
mod serving;
