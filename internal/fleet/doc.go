// Package fleet lends warm runners to the pools of several programs: the server's side of a fleet.
//
// To a program a fleet is a provider whose machines are there already. What it calls a machine is a reservation: a runner that
// is its own until it gives it back. See package wire for the messages.
//
//	parent                         server                                runner, on a machine of a provider
//	  PUT terms ───────────────────> Min is kept
//	  POST machines (invitation) ──> waits in line
//	                                 no runner is idle: writes down, makes ──> boots
//	                                 idle <──────────────────────────────────── POST: I am free        (held open)
//	                                 idle ─> lent, one compare-and-set
//	  <──────────── a "machine"      answers exactly that call ───────────────> the invitation
//	                                 lent ─> busy <──────────────────────────── POST: I serve R         (every few seconds)
//	  <═══════════════════════════ the link between parent and runner ════════════════════════════════>
//	  DELETE ──────────────────────> given back                                 … the link is over
//	                                 busy ─> idle <──────────────────────────── POST: I am free, after R
//
// # Who has a runner, the runner knows
//
// A runner serves one invitation at a time, and gets one only in the answer to a call in which it has said that it is free. So
// nothing of reservations is written down. A server that starts knows which machines there are, package hire has that in its
// ledger; the idle ones call again, and the busy ones say in their next call whom they serve. The id of a reservation says whose
// it is, so the server knows that again, too. An answer that is lost costs nothing: the runner calls again, and is answered the
// same. An invitation is good for one runner, once, so that not even a mistake here could lend one to two.
//
// # The states of a runner
//
//	(none) ── written down, made ──> warming ── first call ──> idle ── reserved ──> lent ── says so ──> busy
//	                                                             ▲                   │                    │
//	                                                             └────── its next call, when that is over ┘
//	server starts ──> unheard ── its call ──> idle or busy
//	any ── ended, silent, old, not needed (from idle alone), not back in time ──> draining ── destroyed ──> (none)
//
// What is done when is decided by one function, plan, from a plain view of a fleet. Everything else finds that out, or carries
// it out.
package fleet
