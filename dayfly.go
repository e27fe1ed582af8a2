// Package dayfly runs any job on a machine that lives only as long as the job.
//
// It is what a program that uses Dayfly imports, and has two doors.
//
// # Jobs
//
// [Client] talks to a server, [JobSpec] says what to run, [Job] says what became of it.
//
// # Calls
//
// A program calls its own functions on other machines, and needs no server for that. [Func] declares a function, [Pool] is
// where it runs, and [Main] is what makes the same program a runner there:
//
//	var Thumbnail = dayfly.Func("thumbnail", thumbnail) // func(context.Context, Video) ([]byte, error)
//
//	func main() {
//		dayfly.Main()
//		pool, err := dayfly.NewPool(dayfly.Local(), &dayfly.PoolOptions{Max: 4, Concurrency: 2})
//		…
//		image, err := Thumbnail.Call(ctx, pool, video)
//	}
//
// Runners are booted when calls need them and stopped when they do not. Local runs them on this computer; the packages below machine
// have providers for containers and clouds.
//
// A call ends with its context, with its time, and with the process that made it. It is not durable: if the parent or the runner
// dies, so does the call, with an error for whoever still listens, and nothing is tried again. What must happen even then is a
// job. A [*RemoteError] is what the function itself failed with, a [*CallError] says that it could not be run, or that nobody
// knows what became of it.
package dayfly
