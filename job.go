package dayfly

import (
	"encoding/json"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// State is where a job is in its life. The transitions are drawn in docs/state-machine.md.
type State string

// The states of a job. The last four are terminal: they never change.
const (
	Created   State = "created"   // waits for its inputs and for start
	Scheduled State = "scheduled" // waits for a time: its run_at, or the backoff before a retry
	Queued    State = "queued"    // ready; waits for its turn, a limit or capacity
	Starting  State = "starting"  // a machine is being made for it
	Running   State = "running"   // an agent has claimed it
	Succeeded State = "succeeded" // its command exited with 0 and its artifacts are stored
	Failed    State = "failed"    // it will not be tried again; Reason says why
	Canceled  State = "canceled"  // somebody canceled it and nothing of it runs
	Expired   State = "expired"   // its queue timeout passed before it first started
)

// Terminal reports whether s is one of the four states that never change.
func (s State) Terminal() bool {
	return s == Succeeded || s == Failed || s == Canceled || s == Expired
}

// Reason is the code that says why a job or an attempt ended as it did.
type Reason string

// The reasons.
const (
	ReasonExitNonzero     Reason = "exit_nonzero"      // the command exited with a status other than 0
	ReasonSignaled        Reason = "signaled"          // a signal that Dayfly did not send ended the command
	ReasonTimeout         Reason = "timeout"           // the run timeout passed
	ReasonDeadline        Reason = "deadline_exceeded" // the total timeout over all attempts passed
	ReasonQueueTimeout    Reason = "queue_timeout"     // it did not start before its queue timeout
	ReasonOOMKilled       Reason = "oom_killed"        // the kernel killed it for want of memory
	ReasonDiskFull        Reason = "disk_full"         // it failed while its disk was full
	ReasonCommandNotFound Reason = "command_not_found" // the program does not exist or cannot be executed
	ReasonInputFailed     Reason = "input_failed"      // an input could not be fetched, or was not what was uploaded
	ReasonOutputFailed    Reason = "output_failed"     // an output could not be stored
	ReasonMachineLost     Reason = "machine_lost"      // the machine vanished, or ceased to answer, while it ran
	ReasonNeverStarted    Reason = "never_started"     // no machine could be made to run it
	ReasonPoison          Reason = "poison"            // it took its machine down three times in a row
	ReasonCanceled        Reason = "canceled"          // somebody canceled it
	ReasonRefused         Reason = "refused"           // the provider will never run it as it is written
	ReasonCostLimit       Reason = "cost_limit"        // what it may cost was used up
)

// JobSpec is what to run and how. It is the body of POST /v1/jobs.
type JobSpec struct {
	Name    string            `json:"name,omitempty" maxLength:"200" doc:"A name for people; the command's first word when it is missing."`
	Command []string          `json:"command,omitempty" minItems:"1" maxItems:"4096" doc:"The program and its arguments. No shell is involved unless you name one. Only with bare or own_agent may it be missing."`
	Env     map[string]string `json:"env,omitempty" doc:"Environment variables. Names match [A-Za-z_][A-Za-z0-9_]* and do not begin with DAYFLY_ or LD_."`
	Payload json.RawMessage   `json:"payload,omitempty" doc:"Any JSON; the job finds it in the file that DAYFLY_INPUT names. At most 256 KiB."`

	Provider  string  `json:"provider,omitempty" maxLength:"600" doc:"Where to run it; when it is missing, where its queue or else the server says. Several, separated by commas, are tried in their order, and a region stands behind a colon: fly:ams,fly:fra,docker. At most eight."`
	Pool      string  `json:"pool,omitempty" maxLength:"64" doc:"The pool of warm machines to run it on, so that it starts without a boot. It fills in provider, image and size; another image or size is refused. When no machine of the pool is idle, the job starts on one of its own, as without a pool. When it is missing, what its queue says."`
	Image     string  `json:"image,omitempty" maxLength:"512" doc:"The image to run it in, for providers that have images."`
	Bare      bool    `json:"bare,omitempty" doc:"Run the image as it is, without Dayfly's agent: with its own entrypoint, whose arguments the command is. How the machine ends is how the job ends. Nobody fetches inputs or stores outputs; the program may, with its token."`
	OwnAgent  bool    `json:"own_agent,omitempty" doc:"The image has an agent of its own as its entrypoint, which claims the attempt by itself, such as a script with curl."`
	Size      string  `json:"size,omitempty" maxLength:"64" doc:"A named size, such as shared-cpu-1x."`
	CPUs      float64 `json:"cpus,omitempty" minimum:"0" maximum:"1024" doc:"Processors, instead of the size's."`
	MemoryMB  int     `json:"memory_mb,omitempty" minimum:"0" maximum:"16777216" doc:"Memory limit in MiB, instead of the size's."`
	DiskMB    int     `json:"disk_mb,omitempty" minimum:"0" maximum:"1073741824" doc:"How much it may write to its working directory, in MiB."`
	Processes int     `json:"processes,omitempty" minimum:"0" maximum:"4194304" doc:"How many processes and threads it may have at once; beyond that they cannot be made. 0: no limit of its own, only the one that all machines of a host share."`

	Inputs  []InputSpec `json:"inputs,omitempty" maxItems:"256" doc:"Files to upload before start; each is put into the working directory."`
	Outputs []string    `json:"outputs,omitempty" maxItems:"64" doc:"Glob patterns of files in the working directory to keep as artifacts. ** matches any number of directories."`

	Timeouts Timeouts `json:"timeouts,omitzero" doc:"How long each part may take."`
	Retry    Retry    `json:"retry,omitzero" doc:"What to do when an attempt fails."`
	MaxCost  Money    `json:"max_cost,omitempty" doc:"The most that all its attempts together may cost, in US dollars: a string such as \"0.50\". Default: no limit."`

	KeepOnFailure Duration `json:"keep_on_failure,omitempty" doc:"How long the machine of the last attempt is kept when that fails, to be looked at. It ends then by itself, and costs until then. At most 24h; default: not at all."`

	Queue          string            `json:"queue,omitempty" maxLength:"64" doc:"The queue it waits in; default when it is missing."`
	ConcurrencyKey string            `json:"concurrency_key,omitempty" maxLength:"200" doc:"Jobs of one queue with the same key share the queue's limit per key."`
	Priority       int               `json:"priority,omitempty" minimum:"-1000" maximum:"1000" doc:"Higher runs first; 0 when it is missing."`
	RunAt          *time.Time        `json:"run_at,omitempty" doc:"Not before this time, by the wall clock of the server as it is then."`
	Labels         map[string]string `json:"labels,omitempty" doc:"Your own marks, to filter by. At most 64."`

	Start *bool `json:"start,omitempty" doc:"Whether to start at once. true when there are no inputs; with inputs the job waits for start."`
}

// InputSpec declares one input file.
type InputSpec struct {
	Name        string `json:"name" minLength:"1" maxLength:"1024" doc:"Where to put it, relative to the working directory."`
	ContentType string `json:"content_type,omitempty" maxLength:"255" doc:"When given, the upload must have exactly this content type."`
}

// Timeouts limit how long the parts of a job may take. Zero is the server's default.
type Timeouts struct {
	Queue Duration `json:"queue,omitempty" doc:"From start until the command first starts; a job that waits then expires. Default: none."`
	Pull  Duration `json:"pull,omitempty" doc:"For the provider to fetch what the machine needs, such as its image. It does not count as boot. Default: 10m."`
	Boot  Duration `json:"boot,omitempty" doc:"From asking for a machine until its agent answers. Default: 5m."`
	Run   Duration `json:"run,omitempty" doc:"From the start of the command until it is told to stop. Default: 1h."`
	Total Duration `json:"total,omitempty" doc:"From start until the end, over all attempts. Default: none."`
	Grace Duration `json:"grace,omitempty" doc:"From being told to stop (SIGTERM) until it is killed (SIGKILL). Default: 10s."`
}

// Retry says what to do when an attempt fails. Zero is the default.
type Retry struct {
	MaxAttempts       int      `json:"max_attempts,omitempty" minimum:"0" maximum:"100" doc:"How often the command may be started. Default: 1."`
	MaxLaunches       int      `json:"max_launches,omitempty" minimum:"0" maximum:"100" doc:"How many machines in a row may fail before the command starts. Default: 5."`
	BackoffMin        Duration `json:"backoff_min,omitempty" doc:"The first wait is between zero and this. Default: 1s."`
	BackoffMax        Duration `json:"backoff_max,omitempty" doc:"No wait is longer. Default: 5m."`
	OOMKilled         bool     `json:"oom_killed,omitempty" doc:"Try again after running out of memory too; the same size usually fails the same way, so it is not the default."`
	NonRetryableExits []int    `json:"non_retryable_exit_codes,omitempty" maxItems:"255" doc:"Exit codes after which trying again is pointless."`
}

// Duration is a length of time. In JSON it is a string such as "90s" or "1h30m", or a number of seconds.
type Duration time.Duration

// Upload says how to store one input: one request of this method to this URL with these headers.
type Upload struct {
	Method    string            `json:"method"`
	URL       string            `json:"url"`
	Headers   map[string]string `json:"headers,omitempty"`
	ExpiresAt time.Time         `json:"expires_at"`
}

// Job is a job as the server knows it.
type Job struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	State State  `json:"state"`

	Reason   Reason          `json:"reason,omitempty" doc:"Why it ended as it did, as a code."`
	Message  string          `json:"message,omitempty" doc:"Why, and what to do about it, in a sentence."`
	ExitCode *int            `json:"exit_code,omitempty" doc:"Of the last attempt's command. 126 if its program cannot be executed, 127 if there is none, as in a shell."`
	Result   json.RawMessage `json:"result,omitempty" doc:"What the command wrote to the file that DAYFLY_RESULT names."`
	Progress *Progress       `json:"progress,omitempty"`

	CreatedAt  time.Time  `json:"created_at"`
	RunAt      *time.Time `json:"run_at,omitempty" doc:"While scheduled: when it becomes ready."`
	QueuedAt   *time.Time `json:"queued_at,omitempty" doc:"When it last became ready."`
	FinishedAt *time.Time `json:"finished_at,omitempty"`

	Refusals []Refusal `json:"refusals,omitempty" doc:"Why providers that it names have not run it, the last of each."`

	CancelRequested bool   `json:"cancel_requested,omitempty"`
	RetriedFrom     string `json:"retried_from,omitempty" doc:"The job this one repeats."`

	Spec      JobSpec    `json:"spec"`
	Inputs    []Input    `json:"inputs,omitempty"`
	Attempts  []Attempt  `json:"attempts"`
	Artifacts []Artifact `json:"artifacts"`

	Cost *Cost `json:"cost,omitempty" doc:"What all its attempts have cost. Missing before the first, and in lists unless it is asked for."`
}

// Progress is what the job last said of itself.
type Progress struct {
	Fraction float64 `json:"fraction" minimum:"0" maximum:"1"`
	Text     string  `json:"text,omitempty"`
}

// Refusal is why one of the providers that a job names did not run it, or does not for now.
type Refusal struct {
	Provider string     `json:"provider"`
	Region   string     `json:"region,omitempty"`
	Kind     fault.Kind `json:"kind" doc:"exhausted: no room, or as many machines as it may have. denied: it refuses Dayfly's credentials. invalid or unsupported: it will never run the job as it is written."`
	Reason   Reason     `json:"reason,omitempty" doc:"cost_limit when it was not even asked, because the job's max_cost does not pay for a start there. Else missing."`
	Message  string     `json:"message" doc:"What it said, in a sentence."`
	At       time.Time  `json:"at"`
}

// Input is an input file of a job.
type Input struct {
	Name        string  `json:"name"`
	ContentType string  `json:"content_type,omitempty"`
	Uploaded    bool    `json:"uploaded"`
	Size        int64   `json:"size,omitempty"`
	SHA256      string  `json:"sha256,omitempty"`
	Upload      *Upload `json:"upload,omitempty" doc:"How to upload it, while the job is in created."`
}

// AttemptState is where an attempt is in its life.
type AttemptState string

// The states of an attempt. The last six are terminal.
const (
	AttemptCreating      AttemptState = "creating"       // its machine was asked for
	AttemptCreateUnknown AttemptState = "create_unknown" // the answer was lost; Dayfly is finding out
	AttemptBooting       AttemptState = "booting"        // its machine exists; its agent has not called yet
	AttemptRunning       AttemptState = "running"        // its agent has claimed it
	AttemptSucceeded     AttemptState = "succeeded"
	AttemptFailed        AttemptState = "failed"
	AttemptTimedOut      AttemptState = "timed_out"
	AttemptCanceled      AttemptState = "canceled"
	AttemptLost          AttemptState = "lost"          // its machine vanished after it was claimed
	AttemptNeverStarted  AttemptState = "never_started" // no machine of it ever called
)

// Terminal reports whether s never changes.
func (s AttemptState) Terminal() bool {
	switch s {
	case AttemptSucceeded, AttemptFailed, AttemptTimedOut, AttemptCanceled, AttemptLost, AttemptNeverStarted:
		return true
	}
	return false
}

// Attempt is one try at a job.
type Attempt struct {
	ID       string       `json:"id"`
	Number   int          `json:"number" doc:"From 1."`
	State    AttemptState `json:"state"`
	Reason   Reason       `json:"reason,omitempty"`
	Message  string       `json:"message,omitempty"`
	ExitCode *int         `json:"exit_code,omitempty"`
	Signal   string       `json:"signal,omitempty"`
	Machine  Machine      `json:"machine"`
	Phases   Phases       `json:"phases"`
	Cost     *Cost        `json:"cost,omitempty"`

	Preparation *Preparation `json:"preparation,omitempty" doc:"How far the provider is with what it fetches, while it does."`

	CreatedAt time.Time  `json:"created_at"`
	EndedAt   *time.Time `json:"ended_at,omitempty"`

	MaxRSSKB int64 `json:"max_rss_kb,omitempty" doc:"Largest resident set of any one process, in KiB. Left out when not known, as on the local provider when it is small."`
	UserMS   int64 `json:"user_ms,omitempty" doc:"CPU time in user mode, in milliseconds."`
	SystemMS int64 `json:"system_ms,omitempty" doc:"CPU time in the kernel, in milliseconds."`
}

// Preparation says how far a provider is with what it fetches for a machine, such as an image.
type Preparation struct {
	Text  string `json:"text" doc:"What it does, in a few words."`
	Done  int64  `json:"done,omitempty" doc:"Bytes of the total."`
	Total int64  `json:"total,omitempty" doc:"Bytes; missing when it is not known."`
}

// Phases says how long each part of an attempt took, in milliseconds. A phase that is not over is counted up to now;
// one that has not begun is missing.
type Phases struct {
	Queued    *float64 `json:"queued,omitempty" doc:"Ready, waiting for its turn."`
	Preparing *float64 `json:"preparing,omitempty" doc:"The provider fetched what the machine needs, such as its image; missing if all was there."`
	Creating  *float64 `json:"creating,omitempty" doc:"The provider was asked for a machine."`
	Booting   *float64 `json:"booting,omitempty" doc:"The machine came up, claimed the attempt and fetched its inputs."`
	Running   *float64 `json:"running,omitempty" doc:"The command ran."`
	Finishing *float64 `json:"finishing,omitempty" doc:"Outputs were stored and the result was reported."`
}

// Machine is the machine of an attempt.
type Machine struct {
	Name      string     `json:"name"`
	Provider  string     `json:"provider"`
	Region    string     `json:"region,omitempty" doc:"Where it was asked for, when the job said so."`
	Image     string     `json:"image,omitempty" doc:"What it runs, with the digest that it was resolved to."`
	State     string     `json:"state" doc:"creating, present, kept, deleting or gone; lent while an attempt has a machine of a pool."`
	Location  string     `json:"location,omitempty" doc:"Where it runs, in the provider's words."`
	Job       string     `json:"job,omitempty"`
	Attempt   string     `json:"attempt,omitempty"`
	HiredBy   string     `json:"hired_by,omitempty" doc:"Whose it is, when a program has hired it for the runners of a pool."`
	CreatedAt time.Time  `json:"created_at"`
	KeptUntil *time.Time `json:"kept_until,omitempty" doc:"Until when it is kept after its job's failure."`
	GoneAt    *time.Time `json:"gone_at,omitempty" doc:"When the provider confirmed that nothing of it is left."`
	Message   string     `json:"message,omitempty"`
	Pool      string     `json:"pool,omitempty" doc:"Whose machine it is, if it is a pool's."`
	Use       string     `json:"use,omitempty" doc:"What it does for its pool: warming, idle, busy, recycling or draining; or for its fleet: unheard, warming, idle, lent, busy or draining."`
	Uses      int        `json:"uses,omitempty" doc:"How many jobs of its pool it has begun."`
	Slots     []Slot     `json:"slots,omitempty" doc:"What its slots do, if it is a pool's and carries out several jobs at once."`
}

// Slot is the part of a machine of a pool that carries out one job beside those in the other slots.
type Slot struct {
	Use     string `json:"use" doc:"What it does: warming, idle, busy, recycling or draining. A slot that is draining takes no more jobs; the machine goes when all are."`
	Job     string `json:"job,omitempty"`
	Attempt string `json:"attempt,omitempty"`
	Uses    int    `json:"uses,omitempty" doc:"How many jobs it has begun."`
}

// WarmPool is machines that the server keeps for the jobs which name the pool, so that these start without a boot.
type WarmPool struct {
	Name        string         `json:"name"`
	Provider    string         `json:"provider"`
	Region      string         `json:"region,omitempty"`
	Image       string         `json:"image,omitempty"`
	Size        string         `json:"size,omitempty"`
	Min         int            `json:"min" doc:"Machines that are kept although no job comes."`
	Max         int            `json:"max" doc:"Machines that it has at most."`
	Concurrency int            `json:"concurrency" doc:"Jobs that a machine carries out at once, each in a slot of it."`
	Machines    map[string]int `json:"machines" doc:"How many machines it has, by what they do: warming, idle, busy, recycling or draining. One does what the busiest of its slots does."`
	Slots       map[string]int `json:"slots" doc:"How many slots its machines have, by what they do. As many as machines when each has one."`
	Uses        int            `json:"uses" doc:"How many jobs the machines that it has now have begun."`
	PausedUntil *time.Time     `json:"paused_until,omitempty" doc:"When it makes machines again, after several have ended before they were ready."`
	Message     string         `json:"message,omitempty" doc:"Why it makes none."`
}

// FleetStatus is how warm runners are that several programs share, see [Client.Fleet].
type FleetStatus struct {
	Name        string         `json:"name"`
	Provider    string         `json:"provider"`
	Token       string         `json:"token,omitempty" doc:"The name of the token whose programs share it; missing when they need none, or have the owner's."`
	Min         int            `json:"min" doc:"Runners that are kept although nobody needs one."`
	Max         int            `json:"max" doc:"Runners that it has at most."`
	Programs    int            `json:"programs" doc:"How many programs share it now."`
	Runners     map[string]int `json:"runners" doc:"How many runners it has, by what they do: unheard, warming, idle, lent, busy or draining."`
	Waiting     int            `json:"waiting" doc:"How many wait for a runner."`
	PausedUntil *time.Time     `json:"paused_until,omitempty" doc:"When it makes runners again, after some have not booted."`
	Message     string         `json:"message,omitempty" doc:"Why the last runner did not boot of those that did not."`
	FailedAt    *time.Time     `json:"failed_at,omitempty" doc:"When that was."`
}

// Artifact is a file that an attempt produced.
type Artifact struct {
	Name        string `json:"name"`
	Size        int64  `json:"size"`
	SHA256      string `json:"sha256"`
	ContentType string `json:"content_type,omitempty"`
	DownloadURL string `json:"download_url,omitempty" doc:"To GET it from, without a token, until it expires."`
}

// Event is one change in the life of a job. The Seq of a job's events has no gaps.
type Event struct {
	Seq     int64     `json:"seq" doc:"From 1, without gaps."`
	Job     string    `json:"job"`
	Time    time.Time `json:"time"`
	Type    string    `json:"type" doc:"created, queued, starting, running, attempt_ended, …"`
	State   State     `json:"state" doc:"The job's state after it."`
	Attempt int       `json:"attempt,omitempty" doc:"The number of the attempt it is about."`
	Reason  Reason    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
}
