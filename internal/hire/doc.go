// Package hire lets programs have machines of a server's providers, for the runners of their pools.
//
// A program speaks to the server as to a machine.Provider, with the messages of package wire. Who hires a machine is written
// down before the provider is asked for it, and that is removed when it is gone, so a server that was killed knows what it
// has hired out. What is at a provider and is not written down goes when a lease has passed. What the server adds is what
// a program cannot do alone:
//
//   - The machines count against the most that the provider may have, together with those of jobs.
//   - They belong to a tenant, the name of a token, and do not exist for others.
//   - The programs that they are to run are uploaded, under their digests; nothing else of the server's computer is run or brought
//     into a machine because a message names it.
//   - They are shown with the others.
//   - Each holder has a lease, which every list of its renews. When it is over, the server destroys the machines. A lease is
//     in memory alone: a server that starts gives everybody a new one.
package hire
