// Package engine runs jobs.
//
// It decides with pure functions and carries the decisions out with thin loops:
//
//	rows of the store ─┐
//	machines listed ───┼──> plan() ──> actions ──> store (compare-and-set) and provider
//	signs of life ─────┘
//
// What plan decides from is gathered in a [world]; what it decides is a list of actions; it does nothing itself and
// reads no clock, so it is tested with millions of random worlds.
//
// # Rules that hold everywhere
//
//   - Intent before effect. No provider is asked for a machine before a committed row names that machine. So a machine
//     that exists can always be explained, and one that cannot be explained can be removed.
//   - Claim before run. A machine runs user code only after it has won the compare-and-set on its attempt. So late,
//     repeated and duplicate creates are harmless.
//   - An ambiguous create is asked again with the same bytes under the same name, or looked for; never made anew. One that
//     is found before it runs is asked for again, too: it may have been made and not started.
//   - Only the store decides. Memory holds copies; a copy that has grown old loses its compare-and-set, is read again
//     and decided again.
//   - Silence is not death. A silent agent makes the engine ask the provider. Only a machine that is certainly gone, or
//     one that was killed and is confirmed gone, loses its attempt.
//   - Timers of silence begin again when the server starts, and run on a monotonic clock. A restart, a suspend or a
//     wall clock set wrong therefore ends no attempt.
//   - Orphans are found by listing the provider first and reading the store second. The other order would kill a
//     machine that was made between the two.
//   - A machine that may be killed may be killed for ever after: its attempt is over or unknown. So a slow or repeated
//     killer does no harm.
//   - Destroy is repeated until the provider confirms it, and the row stays until then.
//
// # The life of an attempt
//
//	               Launch (commit)          Create answered           Claim (compare-and-set)
//	queued job ──────────────────> creating ───────────────> booting ──────────────────> running ──> succeeded
//	                                  │  ▲                      │                           │        failed
//	                      ambiguous   ▼  │ resend               │ boot timeout,             │        timed_out
//	                              create_unknown ───────────────┤ definite no               │        canceled
//	                                  │        claim ───────────┼──> running                └──────> lost
//	                                  └─────────────────────────┴──> never_started
//
// The claim is legal from creating and create_unknown on purpose: the machine is the best proof that the create
// worked, and it often calls before the provider's API has answered.
package engine
