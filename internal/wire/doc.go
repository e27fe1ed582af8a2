// Package wire is the protocol between an agent and the server: its messages, its limits and its rules.
//
// The agent always calls; the server never does. Requests and answers are JSON over HTTP, small enough for curl, so
// that an image without our agent can be its own agent with a shell script. Errors are problem details (RFC 9457)
// whose "code" is a kind of package fault.
//
//	agent                                             server
//	  | POST /agent/v1/claim                            |
//	  |   bootstrap token, instance, boot nonce         |
//	  |------------------------------------------------>|  compare-and-set: attempt unclaimed?
//	  |<------------------------------------------------|  200 Assignment, with a session token
//	  |                                                 |  409 already_claimed: exit, run nothing
//	  |  inputs in, by URL                              |  409 stale_attempt:   exit, run nothing
//	  |  the command runs                               |
//	  |                                                 |
//	  | POST /agent/v1/attempts/ID/heartbeat            |  held open up to wait_ms; answered at once when
//	  |<----------------------------------------------->|  there is an order: stop because of cancel or deadline
//	  | POST /agent/v1/attempts/ID/logs?stream=&offset= |  body: raw bytes
//	  |<----------------------------------------------->|  the offset up to which bytes are stored
//	  |                                                 |
//	  |  the command ended                              |
//	  | POST /agent/v1/attempts/ID/artifacts            |  where to PUT each output
//	  | PUT  signed URL                                 |
//	  | POST /agent/v1/attempts/ID/result               |  compare-and-set: still this attempt?
//	  |------------------------------------------------>|  200: accepted, durable   409 stale_attempt: discard
//
// # Who decides
//
// The store decides, by compare-and-set. A machine may run user code only after its claim was answered with 200;
// that one rule makes late, duplicate and repeated creates harmless. A claim by the same instance and boot nonce is
// answered again with the same Assignment, because its first answer may have been lost.
//
// # Tokens
//
// A bootstrap token opens the claim of one attempt and nothing else. The session token in the Assignment is bound to
// the attempt and to its fence: the fence of a job rises with each claim, so a token of an attempt that was
// superseded opens nothing. The job's own token (DAYFLY_TOKEN) may read its job and report progress.
// All are sent as "Authorization: Bearer …" and are never accepted in a URL.
//
// # Silence
//
// The agent repeats a call that failed with 429, 5xx or no answer at all, with full-jitter backoff, for as long as
// [Assignment.OrphanAfterMS] since the last answer; meanwhile the command runs on and output is spooled to disk.
// After that the agent ends the command, and itself. 409 stale_attempt, 401 and 404 end it at once: the command is
// killed, nothing more is sent.
// Times on the agent's side are read from a clock that counts suspend (CLOCK_BOOTTIME).
//
// # Offsets
//
// Each stream is a sequence of bytes from 0. A chunk names the offset of its first byte. The server stores a chunk
// that begins where the stream ends, skips what it has already, and refuses a chunk beyond the end with 409
// conflict and the offset it wants: in the member "stored" of the problem, or in a batch as the Log beside the Error.
// A result whose last chunks begin beyond the end is refused the same way. An agent that no longer has those bytes sends a [LogChunk] with Gap set, which
// records how much is missing and why. So a byte is stored once, in order, or its absence is on record.
//
// # Machines of pools
//
// The agent on a machine of a pool is given an id that begins with [RunnerPrefix] in place of an attempt, and the bootstrap
// token of that. It claims by that id, in a request that the server holds open until there is an attempt for the machine.
// The answer is the Assignment of that attempt, which was claimed for it by what has launched it: neither a round trip nor a
// commit comes between the launch and the command. The answer is as lost as any when it does not arrive; the agent asks again,
// and is given the same.
//
//	agent                                             server
//	  | POST /agent/v1/claim?held=true {rnr_…, wait_ms} |  held open; a server that ends answers at once
//	  |<------------------------------------------------|  200 {wait}: nothing yet, ask again
//	  |------------------------------------------------>|  held open
//	  |<------------------------------------------------|  200 Assignment, of some attempt
//	  |  as above, from the inputs to the result        |
//	  |  what is left of it is removed                  |
//	  | POST …/claim?held=true {rnr_…, wait_ms, done}   |  the machine is free again; held open
//	  |                                                 |  409 stale_attempt: exit, the machine is not wanted
//
// A machine that cannot be made as it was says so (Spoiled) and is destroyed. A claim by another nonce than the first is
// refused (409 already_claimed): it is a second instance of the machine, or an agent that was started again and does not know
// what is left on it. Both end, and so do their machines.
//
// A machine that is divided into slots has as many attempts at once, one in each. It hears of that in the Slots of the first
// answer, for which it does not let the server wait long, and then each slot claims for itself, as a machine with one slot does: by an id of its own, see [Slot], with a nonce
// of its own, with the bootstrap token and the instance of the machine. A slot that is refused ends alone, and the machine
// when all of them have. What spoils one slot spoils the machine: the one that finds it says so, and the server gives none of
// the slots anything more.
//
//	agent                                             server
//	  | {rnr_1, nonce a}                                |
//	  |<------------------------------------------------|  200 {wait, slots: 2}
//	  | {rnr_1, nonce a}                                |  held open
//	  | {rnr_1.2, nonce b}                              |  held open
//	  |<------------------------------------------------|  200 Assignment for rnr_1.2, slots: 2
//
// # Many machines, one connection
//
// A supervisor of many machines on one host speaks for all of them: POST /agent/v1/batch carries calls of several
// attempts, each with its own token and its own answer. It means exactly what the calls would mean one by one. A server
// that is short of memory reads no such request from somebody it does not know; so any one of the tokens is sent in the
// header too, another each time, because one may have become void.
package wire
