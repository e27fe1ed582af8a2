// Package call is what a parent and its runner say to each other over a link: run this function with this argument, here is its
// result. A [Client] is the parent's end of one link, a [Server] the runner's.
//
// # A call
//
//	parent                                                      runner
//	open {id, function, time left, argument} ───────────────>   the function starts on a goroutine of its own
//	part {id, more of the argument} ────────────────────────>
//	     <──────────────────────────────────────── progress {id, fraction, text}
//	     <──────────────────────────────────────── log {what it logged and printed, with the id}
//	cancel {id, why} ───────────────────────────────────────>   the function's context ends
//	     <──────────────────────────────────────── result {id, outcome, value}
//	     <──────────────────────────────────────── part {id, more of the value}
//	     <──────────────────────────────────────── end {id}, when the value has readers, after the last of them
//
// Each open is answered by exactly one result, whatever happens: the function's value, its error, its panic, or why it
// was not run. The result, or the end, is the moment in which the work has ended and its slot is free. A caller whose
// context ends does not wait for it, but the slot does.
//
// # What flows
//
// A value that is larger than a frame is cut into parts. Between the parts of one value the frames of others are sent, so a
// large value holds up a small one for no longer than one part takes. What comes piece by piece and may be read slowly has a
// window: the items of a stream, and readers in arguments and results. Its receiver allows so many bytes and then as
// many as were taken out, and its sender waits.
//
//	item   {id, value} ... ───────>  an item of a stream, from the runner
//	data   {id, channel, bytes} ──>  of a reader, from whoever has the reader
//	credit {id, channel, bytes} <──  how many more bytes may be sent; or that no more are wanted
//
// # Who ends what
//
//	what happens                          attached call, stream, placement    detached
//	its context or handle ends            canceled                            goes on
//	the link is lost, the parent dies     canceled                            has the grace of Settings, then canceled
//	the runner is drained                 goes on until the drain's end       goes on until the drain's end
//	it never ends                         its slot stays taken, see ClientOptions.Stuck
//
// # Types
//
// What describes the types of an argument is in the first open of a function, and in all further ones until a result has come back,
// which proves that it was read. What describes the results is in each result until an open says that it is known.
//
// Parent and runner are one build, which the link has checked. So the frames have no versions and no room for extensions.
package call
