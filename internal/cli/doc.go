// Package cli is the dayfly command.
//
// Every command talks to a server through the root package's Client, as any program would. Which server that is, is
// decided in one place (connect.go): the one that --server or DAYFLY_URL names; or else whichever process has the
// state directory open; or else this very process, which then serves itself for as long as the command takes. So the
// first command a newcomer types works, and two of them at once share one store.
//
// Standard output carries what the command is for: the job's own output, a table, JSON. Everything else, such as
// progress, summaries and questions, goes to standard error, and most of it only to a terminal.
package cli
