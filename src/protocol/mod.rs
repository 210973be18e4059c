//! The rules of the protocol, pure: nothing here blocks, logs, rolls dice or reads a clock. Plain values
//! go in, decisions come out; `store/` and `engine/` do what they say.
//!
//! # Who is authoritative
//!
//! The database has the last word. An engine may believe its last accepted beat for L, counted from
//! before it sent it, and it may only ever *stop earlier* because of its own clock. No wall clock decides
//! anything: the host's is shown to people, the database's decides when retries are due and is a cheap
//! filter for sweeps.
//!
//! # The life of an incarnation
//!
//! ```text
//!                  beat … beat … beat
//!   register ──────────► live ────────────► stopped     (said goodbye, nothing of it runs)
//!                         │  └────────────► fenced      (declared dead; never comes back, I3)
//!                         │                    ▲
//!                         └─ UPDATE … WHERE incarnation = ? AND beat = <observed> AND live
//! ```
//!
//! That conditional update is the one linearisation point. A beat that came first makes it zero rows; a
//! beat that comes later finds zero rows itself, and its engine stops everything.
//!
//! # Windows, counted from the sending of the last accepted beat
//!
//! ```text
//!   engine    │◄────────────── L: trusted ──────────────►│SIGTERM│SIGKILL│ guard │all dead
//!             0                                          L     L+K/4   L+K/2    L+K
//!   a peer        │◄─ reads the counter ──────── T: it stands still on the peer's own clock ──►│ fence
//! ```
//!
//! The peer's read came after the beat was sent, and `T >= 1.02 (L + K)`: when the fence can first be
//! sent, everything the engine started is dead (the two per cent are for clocks that run differently).
//!
//! # What happens on each failure
//!
//! | failure | what follows |
//! |---|---|
//! | engine process dies | its guard kills the rest and proves it; peers go on at once |
//! | engine frozen | the guard kills it at L + K/2, before T |
//! | engine and guard die | death signals end the tasks; peers fence after T |
//! | cut off from the database | self-fence at L, comes back as a new incarnation |
//! | database away, shorter than L − 1.1h − 2q − h/8 | nothing |
//! | database away, longer | all engines stop their tasks and hand them back; nobody is fenced by a peer, because every observer's own beats lapsed too |
//! | database came back older | the epoch is raised: all tokens outrank the lost ones, all timers restart |
//! | a claim commits after its engine was closed | a search once per T finds it |
//! | a task kills its engines | alone from the second loss on, quarantined at `max_lost` |
//! | a task stops its engines politely, soon after its start | waits longer each time, quarantined after eleven in a row |
//!
//! # The files
//!
//! [`ids`] names and numbers; [`time`] points in time; [`timing`] h, q, L, K, T, S and their two
//! inequalities; [`mod@last_beat`] whether beats were lost with the database; [`mod@sent_beats`] whether somebody else beats
//! the same row; [`lease`] what the age of the last beat asks for; [`liveness`] who may be fenced;
//! [`engine`] the words of an engine's life; [`task`] the words of a task's life; [`retry`] backoff;
//! [`mod@line`] who has a resource next; [`stand`] whether a row is a former life or a copy's; [`takeover`] what follows the end of an attempt.

pub mod engine;
pub mod ids;
pub mod last_beat;
pub mod lease;
pub mod line;
pub mod liveness;
pub mod retry;
pub mod sent_beats;
pub mod stand;
pub mod takeover;
pub mod task;
pub mod time;
pub mod timing;
