// Package store is what Dayfly remembers: jobs, attempts, machines, events, tokens.
//
// It is internal because two implementations are all there will be, SQLite and Postgres, and being free to change
// this interface is worth more than a third. Package storetest is its specification; both pass it.
//
// # Rules
//
// The store decides nothing about jobs. It carries out transitions that the engine has decided, each as one
// compare-and-set in one transaction together with the event that records it. A transition whose guard no longer
// holds changes nothing and returns [fault.Conflict]: somebody else was first; read again and decide again.
//
// A method that returns nil has committed, and the commit has reached the disk. Writers that arrive together share
// one transaction and one flush (group commit), so durability costs a flush per group, not per call.
//
// Times are the caller's: the store never reads a clock. They are kept in microseconds. A zero time.Time means none.
//
// All methods are safe for concurrent use. Besides the kinds named at each method, any may return
// fault.Unavailable (busy, try again), fault.StoreFull (the disk is full; nothing changed), fault.Canceled (the
// context ended; nothing changed) and fault.Internal. A write that has begun is not given up when its context ends. Where
// the answer to a write can be lost all the same, because the store is elsewhere, the error is fault.Unavailable.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// Store is the whole of it. Most code takes one part.
type Store interface {
	Jobs
	Queue
	Attempts
	Machines
	Runners
	Costs
	Tokens
	Keeper
	// Close ends the store after the writes in flight.
	Close() error
}

// Jobs is the clients' side.
type Jobs interface {
	// Submit adds one job with its first event. If s.Key is set and was used before, nothing is added: when the
	// stored hash equals s.BodyHash the stored job is returned with replayed set, otherwise fault.IdempotencyMismatch.
	// Concurrent submits with one key add one job. If s.Launch is set, the job is also launched, in the same
	// transaction, unless a limit is reached: see [Queue].Launch. The returned job's state tells.
	Submit(ctx context.Context, s *Submission) (job *Job, replayed bool, err error)
	// Job returns a job with its inputs, attempts (oldest first, each with its machine) and published artifacts, or
	// fault.NotFound.
	Job(ctx context.Context, id string) (*Job, error)
	// List returns the jobs that match q, newest first, without inputs, attempts and artifacts. They are at most q.Limit,
	// and fewer when they are large: the first with which they come to [PageBytes] is the last. more tells that others
	// may follow.
	List(ctx context.Context, q *Query) (jobs []*Job, more bool, err error)
	// Events returns up to limit events of a job with Seq > after, in order; fault.NotFound if there is no such job.
	Events(ctx context.Context, id string, after int64, limit int) ([]*dayfly.Event, error)
	// Move carries out one transition of a job that is not active. See [Move].
	Move(ctx context.Context, m *Move) (*Job, error)
	// StoreInput records that an input has been uploaded. It returns the Blob of the upload whose place this one takes,
	// or "". fault.NotFound if the job declares no such input, fault.Conflict unless the job is in created.
	StoreInput(ctx context.Context, jobID string, in Input) (replaced string, err error)
}

// PageBytes is how many bytes of specs and results List reads for one page. A thousand jobs may have a gigabyte of them.
const PageBytes = 4 << 20

// ErrHeld is why a launch is refused when the job is ready no more, but held until its key has room.
var ErrHeld = errors.New("held until its key has room")

// Queue is the dispatcher's side.
type Queue interface {
	// Lanes returns every pair of provider and queue that has ready jobs (queued and not held), in any order. Its
	// cost depends on the number of lanes, not of jobs.
	Lanes(ctx context.Context) ([]Lane, error)
	// Ready returns the first limit ready jobs of a lane behind after, which need not be ready any more, or from the
	// first if that is nil: higher priority first, then older first. The jobs come without inputs, attempts and artifacts.
	// Its cost does not depend on how many come before.
	Ready(ctx context.Context, lane Lane, after *Job, limit int) ([]*Job, error)
	// Ahead returns how many ready jobs of the same lane come before this one.
	Ahead(ctx context.Context, job *Job) (int, error)
	// Launch commits the intent to run attempts: for each, in one transaction, the attempt (creating), its machine
	// (creating), the job's move from queued to starting and its event. What an earlier attempt has left of its outcome
	// (Reason, Message, ExitCode, Result, Progress) is cleared. The result has one error per launch: nil;
	// fault.Conflict if the job is no longer queued at that version; fault.Exhausted if the queue's or key's limit
	// is reached, in which case a job over its key's limit is marked held and the error is [ErrHeld] too. The last
	// error is for the call as a whole.
	Launch(ctx context.Context, launches []*Launch) ([]error, error)
	// Promote moves scheduled jobs to queued when their RunAt has come. A job that has never been ready (its QueuedAt is
	// zero) waits for a time that its owner named: that is compared with wall. So are its deadlines named, which do not
	// count before: when it becomes ready they are put off by what now is ahead of wall. Any other job waits for a
	// backoff, and its RunAt is compared with now. Promote also gives up jobs that have been ready, scheduled or queued,
	// whose deadline is before now: it expires those whose command was never started (Starts is 0) for their
	// QueueDeadline, and fails the others for their TotalDeadline ([dayfly.ReasonDeadline]). Who becomes ready too late
	// moves twice. Each sort of move is made for at most limit jobs, and at now. It returns the moved jobs, and the
	// earliest time at which there will be more to do by the clock that tells now (zero: never).
	Promote(ctx context.Context, now, wall time.Time, limit int) (moved []*Job, next time.Time, err error)
	// Counts returns how many jobs there are in each non-terminal state, by lane.
	Counts(ctx context.Context) ([]Count, error)
}

// Attempts is the machines' side.
type Attempts interface {
	// Claim gives an attempt to the first claimant. See [Claim].
	Claim(ctx context.Context, c *Claim) (*Job, *Attempt, error)
	// End ends an attempt and moves its job on, in one transaction. See [Ending].
	End(ctx context.Context, e *Ending) (*Job, error)
	// Note records what is known of attempts in flight, in one transaction: answers of providers and progress. A
	// note whose attempt has moved beyond what it says is skipped.
	Note(ctx context.Context, notes []*Note) error
	// Live returns the first limit attempts that are not terminal with Seq > after, each with its Job, by Seq. A row
	// that cannot be read is passed over and reported in bad, so that one bad row hides no other: there are fewer than
	// limit only if no others follow.
	Live(ctx context.Context, after int64, limit int) (live []*Attempt, bad []error, err error)
	// Attempt returns one attempt with its Job and machine, or fault.NotFound.
	Attempt(ctx context.Context, id string) (*Attempt, error)
}

// Machines is the ledger of what was asked of providers, kept until the provider has confirmed that it is gone.
type Machines interface {
	// Machines returns machines that match q, newest first.
	Machines(ctx context.Context, q *MachineQuery) ([]*Machine, error)
	// MoveMachine moves machines between states: each changes only if it is in one of From. Those that did not
	// change are skipped without an error. A machine of a pool moves with all its slots.
	MoveMachine(ctx context.Context, moves []*MachineMove) error
	// AdoptMachine adds a row for a machine that a provider listed and the store did not know. fault.Conflict if
	// there is one of that name.
	AdoptMachine(ctx context.Context, m *Machine) error
}

// Tokens are the API's keys. Only hashes are stored.
type Tokens interface {
	// AddToken stores a token. fault.Conflict if there is a live one of that name.
	AddToken(ctx context.Context, t *Token) error
	// TokenByHash returns the token with this SHA-256, expired and revoked ones too, or fault.NotFound.
	TokenByHash(ctx context.Context, hash []byte) (*Token, error)
	// Tokens returns all tokens, newest first.
	Tokens(ctx context.Context) ([]*Token, error)
	// RevokeToken revokes a token by id or name; fault.NotFound if there is none that is live.
	RevokeToken(ctx context.Context, idOrName string, at time.Time) error
}

// Keeper is housekeeping.
type Keeper interface {
	// Boot raises the store's epoch by one and returns what identifies this installation. Call it once per start.
	Boot(ctx context.Context) (*Identity, error)
	// Touch stores the latest reading of the engine's clock, so that after a restart it does not go backwards. An earlier
	// one than that which is stored changes nothing.
	Touch(ctx context.Context, r Reading) error
	// Delete removes one terminal job with all its rows: fault.NotFound, or fault.Conflict while it is not terminal
	// or a machine of it is not gone. Its blobs and logs are the caller's to remove, afterwards.
	Delete(ctx context.Context, id string) error
	// Expendable returns up to limit ids of terminal jobs that finished before the given time and whose machines
	// are all gone, oldest first.
	Expendable(ctx context.Context, before time.Time, limit int) ([]string, error)
	// Check verifies that the store is readable and whole enough to serve, for the readiness probe.
	Check(ctx context.Context) error
}

// Identity identifies an installation and one start of it.
type Identity struct {
	Install string  // 6 characters of a-z and 2-7, made once; part of every machine's name
	Epoch   int64   // how often the store has been booted; stamped on machines
	Last    Reading // the latest that was stored, or zero
}

// Reading is what the engine's clock has shown at a moment, and what the counter behind it had counted then.
type Reading struct {
	Clock time.Time
	Count time.Duration // kept in microseconds
	Since string        // names what the counter counts from, such as a start of the computer; "": nobody knows
}

// Submission is a job to add.
type Submission struct {
	Job      *Job // ID, State (Created, Scheduled or Queued), Spec, the columns derived from it and the times are set
	Inputs   []Input
	Key      string // the Idempotency-Key, or ""
	BodyHash []byte // SHA-256 of the request's body, when Key is set
	// Launch is set to launch the job at once, which saves an idle server one flush before the job runs. The job must
	// be Queued. The launch's JobID and Version are not looked at.
	Launch *Launch
	// OnlyReplay is set when the job may not be added: only Key and BodyHash are looked at, and the answer to a key that
	// has not been used is fault.NotFound.
	OnlyReplay bool
}

// Job is a job's row.
type Job struct {
	Seq     int64 // order of submission, unique
	ID      string
	Version int64 // raised by every transition
	State   dayfly.State
	Spec    dayfly.JobSpec // with every default filled in

	Provider string // which providers may run it, as in its spec: with its queue, its lane
	Queue    string
	Key      string // the concurrency key, or ""
	Priority int
	Held     bool // while queued: passed over because its key is at the limit

	CreatedAt     time.Time
	StartedAt     time.Time // when it was started by its owner: queue and total timeouts count from here
	RunAt         time.Time // while scheduled: when it becomes ready
	QueuedAt      time.Time // when it last became ready; zero: it never was
	FinishedAt    time.Time
	QueueDeadline time.Time // expires if it waits then and its command was never started
	TotalDeadline time.Time

	Attempt  string // the id of the last attempt, or ""
	Number   int    // how many attempts there have been
	Starts   int    // how many of them started the command
	Launches int    // how many in a row never did
	Losses   int    // how many in a row were lost while running
	Fence    int64  // of the last claim

	CancelRequestedAt time.Time
	RetriedFrom       string

	Reason   dayfly.Reason
	Message  string
	ExitCode *int
	Result   json.RawMessage
	Progress *dayfly.Progress
	Refusals []dayfly.Refusal // what its providers said last, one at most of each choice
	Events   int64            // Seq of the last event

	Inputs     []Input           // by Job and by Claim
	AttemptLog []*Attempt        // by Job
	Artifacts  []dayfly.Artifact // by Job; DownloadURL is not set
}

// Input is an input file's row.
type Input struct {
	Name        string
	ContentType string
	Size        int64
	SHA256      string
	Blob        string    // the key of its bytes, "" until it is uploaded
	StoredAt    time.Time // zero until it is uploaded
}

// Attempt is an attempt's row.
type Attempt struct {
	Seq       int64
	ID        string
	JobID     string
	Number    int
	State     dayfly.AttemptState
	Fence     int64  // of its claim; 0 before
	ClaimedBy string // instance and nonce of the claimant, or ""
	Provider  string

	QueuedAt   time.Time // when its job became ready for it
	CreatedAt  time.Time // when the intent was committed
	PreparedAt time.Time // when the provider had fetched what the machine needs; zero: there was nothing to fetch
	BootedAt   time.Time // when the provider had answered
	ClaimedAt  time.Time
	EndedAt    time.Time

	Reason    dayfly.Reason
	Message   string
	Exit      *machine.Exit
	Started   bool // the command was started
	FetchMS   int64
	RunMS     int64
	FinishMS  int64
	MaxRSSKB  int64
	UserMS    int64
	SystemMS  int64
	StdoutLen int64
	StderrLen int64

	Price    *machine.Price // as it was at the launch; nil: nobody knows
	Unbilled bool           // no machine was made for it
	Runner   string         // the name of its machine, if that is a pool's; else ""

	// Preparation is how far the provider is with what it fetches. It is added by who knows, and never stored.
	Preparation *machine.Preparation

	Machine *Machine
	Job     *Job // by Live, Attempt and Claim
}

// MachineState is where a machine is in the ledger.
type MachineState string

// The states of a machine in the ledger.
const (
	MachineCreating    MachineState = "creating"    // it was or will be asked for
	MachinePresent     MachineState = "present"     // it is known to exist, or to have existed
	MachineKept        MachineState = "kept"        // its attempt has failed, and somebody may look at it for a while
	MachineLent        MachineState = "lent"        // of an attempt only: it is a pool's, which goes on with it
	MachineDeleting    MachineState = "deleting"    // to be destroyed until that is confirmed
	MachineGone        MachineState = "gone"        // confirmed
	MachineQuarantined MachineState = "quarantined" // bears our labels, but nobody knows of it; being watched
)

// Machine is a machine's row.
type Machine struct {
	Name      string
	Provider  string
	ID        string // the provider's name for it, once known
	Attempt   string
	JobID     string
	State     MachineState
	Lifetime  time.Duration
	Region    string // where it was asked for, or ""
	Image     string // what it runs, with its digest, once known
	Location  string
	Message   string
	CreatedAt time.Time
	DeleteAt  time.Time // when it became deleting; while it is kept: until when
	GoneAt    time.Time

	// Slots are, by Machines, what it is in its pool, if it is a pool's: itself alone, or if it is divided all its slots. Then
	// Attempt and JobID are "".
	Slots []*Runner
}

// Query selects jobs. Zero fields select all.
type Query struct {
	States []dayfly.State
	Queue  string
	Name   string
	Labels map[string]string // all must match
	Before int64             // only jobs with Seq below this: the cursor; 0: from the newest
	Limit  int               // 1 to 1000
}

// MachineQuery selects machines. Zero fields select all.
type MachineQuery struct {
	States   []MachineState
	Provider string
	Names    []string // at most 1000
	Before   string   // only machines with a name below this: the cursor
	Limit    int      // 1 to 10000
}

// Lane is the jobs of one queue that name the same providers.
type Lane struct {
	Provider string // as in Job
	Queue    string
}

// Count is how many jobs of a lane are in a state.
type Count struct {
	Lane
	State dayfly.State
	Jobs  int
}

// Move is a transition of a job that has no live attempt: start, cancel before launch, or a change of plan.
type Move struct {
	JobID   string
	Version int64 // of the job as it was read
	From    dayfly.State
	To      dayfly.State
	Time    time.Time // of the event

	// Set when To is Scheduled or Queued.
	StartedAt, RunAt, QueuedAt, QueueDeadline, TotalDeadline time.Time
	// CancelRequestedAt is set by a cancel. With From equal to To only this flag is set, which is how the cancel of
	// an active job is recorded.
	CancelRequestedAt time.Time
	// Set when To is terminal.
	FinishedAt time.Time
	Reason     dayfly.Reason
	// Message is what the event says. With a To that is terminal the job says it as well.
	Message string
	// Refusals take the place of the job's, if there are any.
	Refusals []dayfly.Refusal

	Event string // the type of the event
}

// Launch is the intent to run one attempt.
type Launch struct {
	JobID     string
	Version   int64
	AttemptID string
	Machine   string         // its name
	Provider  string         // the one of the job's providers that is to make it
	Region    string         // where
	Lifetime  time.Duration  //
	Price     *machine.Price // what the machine costs, from now on; nil: nobody knows
	Time      time.Time
	// Refusals take the place of the job's, if there are any: choices before this one were passed over. Message is what
	// the event says of that.
	Refusals []dayfly.Refusal
	Message  string
	// Lend is set when the machine is a pool's. Then the launch also moves that, in the same transaction; see [Lending].
	Lend *Lending
	// Limits on jobs in starting or running, this one included; 0: none.
	QueueLimit, KeyLimit int
}

// Claim is one instance's wish to run an attempt.
//
// If the attempt is creating, create_unknown or booting and its job wants it, it becomes running: it gets a new
// fence (the job's, raised by one), the job becomes running, the machine present. If it is running already and By is
// who claimed it, the same rows are returned again. Otherwise fault.AlreadyClaimed if somebody else has it,
// fault.StaleAttempt if it is over, superseded or its job's cancel was requested, fault.NotFound if there is none.
type Claim struct {
	Attempt string
	By      string
	Time    time.Time
}

// Ending is the end of an attempt, together with what becomes of its job.
//
// Guards: the attempt is not terminal, its fence equals Fence (0 for one that was never claimed), it is its job's
// current attempt, and the job is at JobVersion. If the attempt has already ended with the same Fence and State and a nonzero Fence,
// the call changes nothing and succeeds, because the answer to an earlier call may have been lost; Job's second
// result then is the job as it is. Otherwise: fault.NotFound, fault.StaleAttempt (the attempt ended differently or
// was superseded), or fault.Conflict (only the job's version differs: read it again and decide again).
type Ending struct {
	Attempt    string
	Fence      int64
	JobVersion int64
	State      dayfly.AttemptState // terminal
	Time       time.Time

	Reason    dayfly.Reason
	Message   string
	Exit      *machine.Exit
	Started   bool
	KeepUntil time.Time         // the machine, if it exists then, is kept until then, and not deleted; zero: it is deleted
	Runner    RunnerState       // what becomes of the machine, if it is a pool's: recycling, idle or draining
	Gone      string            // why that is draining
	Wall      time.Time         // what the wall clock shows at Time, to settle the cost of a machine that is a pool's; zero: Time
	Unbilled  bool              // the provider has made no machine for it, for certain: it costs nothing
	Result    *wire.Result      // for the measurements, stream lengths and last progress; nil when no agent reported
	Artifacts []dayfly.Artifact // published with the transition when Job is Succeeded or the attempt's command ran

	Job Next
}

// Next is what becomes of a job when its attempt has ended.
type Next struct {
	State      dayfly.State // Scheduled, Queued or terminal
	RunAt      time.Time    // when Scheduled
	Reason     dayfly.Reason
	Message    string
	ExitCode   *int
	Value      json.RawMessage // the result
	Starts     int             // the counters' new values
	Launches   int
	Losses     int
	ReleaseKey bool // let one held job of the same queue and key go on, in each lane: the job leaves its place
	// Refusals take the place of the job's, if there are any.
	Refusals []dayfly.Refusal
}

// Note is something learnt about an attempt in flight. Exactly one of Prepared, Booted, Unknown and Progress is set.
type Note struct {
	Attempt string
	Time    time.Time

	Prepared bool             // the provider has what it needs to make the machine: sets PreparedAt, once
	Booted   *machine.Machine // the provider has answered: creating and create_unknown become booting
	Unknown  string           // the answer is ambiguous, and this is why: creating becomes create_unknown
	Progress *dayfly.Progress // what the job says of itself
}

// MachineMove moves one machine in the ledger.
type MachineMove struct {
	Name    string
	From    []MachineState
	To      MachineState
	Time    time.Time
	Wall    time.Time // what the wall clock shows at Time, to settle costs by; zero: Time
	Message string
}

// Token is an API token's row.
type Token struct {
	ID        string
	Name      string
	Hash      []byte   // SHA-256 of the token
	Scopes    []string // submit, read, cancel, fly, admin
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	RevokedAt time.Time
}
