// Package server is the Dayfly service as a library: the store, the engine and the API in one value.
//
//	s, err := server.New(ctx, server.Options{DataDir: dir, Providers: map[string]machine.Provider{"moon": moon.New()}})
//	if err != nil { … }
//	return s.Run(ctx)
//
// A provider is a value, so a program that brings its own kind of machine is ten lines long.
//
// # What a server owns
//
// One data directory, which nobody else may enter and which one server uses at a time:
//
//	dayfly.db   jobs, attempts, machines, events and tokens
//	key         what tickets and signed URLs are signed with
//	token       the owner's token: who can read it may use the API
//	port        the loopback port used last, for listeners that take any
//	logs/       what commands print
//	blobs/      inputs and artifacts, unless they are kept elsewhere
//	spool/      what is on its way to where they are kept then
//
// # How it ends
//
// When Run's context ends, the server takes no more connections, answers those who wait for something to happen at
// once, gives the other requests ten seconds, and returns. Machines go on running: what they have to say they say to
// the next server on the same directory.
package server
