// Package protocoltest explores the protocol between engine, provider and agents exhaustively, for small bounds. It has
// no code of its own: everything is in its tests.
//
// What is explored is a model: one job of at most two attempts, up to three machines, a provider whose answers and
// whose machines come late or never, a server that may crash, agents that may be killed or get stuck, and messages that
// are delivered late, twice or not at all. The job may name two places, each of which may refuse it, for now or for good,
// before and after it has made the machine, or be too dear for it. Every order in which these can happen is tried, so
// there is no schedule left that a test of the real thing could have missed by luck; what is left is the difference
// between model and code, and the survival suite is for that.
//
//	server        intend ─ send ─ (answer | refusal | no answer) ─ send again …      give up, at any time
//	provider           `─> request in flight ─> machine, now or much later, or never
//	machine                                      `─> boot ─ claim ─ run ─ result ─ exit
//	sweep         list the provider ─ read the store ─ destroy what nobody owns
//
// # What must hold
//
// In every state that can be reached: a command is started at most once per attempt; at most one result is accepted,
// and only from the machine that holds the claim of the current attempt; the sweep destroys no machine that a live
// attempt may need. Of a job that names several places: none is asked again that has refused it for good; it fails of that
// only when each of them has, or is too dear; it goes on to the next only when the one that has refused it neither has a
// machine nor makes one; and no attempt counts as free for which a machine was made. And from every such state there is a
// way to the end: the job is decided and no machine is left.
//
// One thing is taken for granted for the sake of the places, and not for that of the rest: that a provider which has said
// for a while that there is no machine does not make it afterwards. Where one does, the job may have machines at two places
// until the sweep comes, and nothing else goes wrong.
//
// # What each rule is good for
//
// The same is explored with one rule of the protocol left out at a time. Each time something must go wrong, and it is
// said what; otherwise either the rule is not needed, or the model is too small to show why.
package protocoltest
