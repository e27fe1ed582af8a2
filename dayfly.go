// Package dayfly runs any job on a machine that lives only as long as the job.
//
// It is what a program that uses Dayfly imports: [Client] talks to a server, [JobSpec] says what to run, [Job] says
// what became of it.
package dayfly
