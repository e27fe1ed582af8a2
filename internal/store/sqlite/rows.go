package sqlite

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/machine"
)

// jobColumns are what [jobRow.columns] receives, from the tables of jobTables.
const jobColumns = `j.seq, j.id, j.version, j.state, j.provider, j.queue, j.key, j.priority, j.held,
	j.created_at, j.started_at, j.run_at, j.queued_at, j.finished_at, j.queue_deadline, j.total_deadline,
	j.cancel_requested_at, j.attempt, j.number, j.starts, j.launches, j.losses, j.fence, j.events, j.inputs,
	j.retried_from, j.reason, j.message, j.exit_code, j.progress, j.refusals, j.result, coalesce(j.spec, s.spec)`

const jobTables = `jobs j LEFT JOIN specs s ON j.spec IS NULL AND s.job = j.seq`

// jobRow is a job as it was read: its documents are not decoded yet, so that the writer need not wait for that.
type jobRow struct {
	store.Job
	spec     []byte
	decoded  *decodedSpec // of spec, or nil
	progress []byte
	refusals []byte
	inputs   int // how many it has
}

// columns returns where to scan jobColumns.
func (r *jobRow) columns() []column {
	return []column{
		number(&r.Seq), word(&r.ID), number(&r.Version), word(&r.State),
		word(&r.Provider), word(&r.Queue), word(&r.Key), number(&r.Priority), flag(&r.Held),
		instant(&r.CreatedAt), instant(&r.StartedAt), instant(&r.RunAt), instant(&r.QueuedAt), instant(&r.FinishedAt),
		instant(&r.QueueDeadline), instant(&r.TotalDeadline), instant(&r.CancelRequestedAt),
		word(&r.Attempt), number(&r.Number), number(&r.Starts), number(&r.Launches), number(&r.Losses),
		number(&r.Fence), number(&r.Events), number(&r.inputs),
		word(&r.RetriedFrom), word(&r.Reason), word(&r.Message), optional(&r.ExitCode),
		document(&r.progress), document(&r.refusals), document(&r.Result), document(&r.spec),
	}
}

func (r *jobRow) lane() store.Lane { return store.Lane{Provider: r.Provider, Queue: r.Queue} }

// decode returns the job. A row that this version of the program does not understand is fault.Internal.
func (r *jobRow) decode() (*store.Job, error) {
	job := r.Job
	if !knownState(job.State) {
		return nil, fmt.Errorf("sqlite: job %s: %w: state %q is unknown to this version", job.ID, fault.Internal, job.State)
	}
	var err error
	if r.decoded != nil {
		job.Spec, err = r.decoded.get(r.spec)
	} else {
		err = json.Unmarshal(r.spec, &job.Spec)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlite: job %s: %w: its spec cannot be read: %w", job.ID, fault.Internal, err)
	}
	if r.progress != nil {
		job.Progress = new(dayfly.Progress)
		if err := json.Unmarshal(r.progress, job.Progress); err != nil {
			return nil, fmt.Errorf("sqlite: job %s: %w: its progress cannot be read: %w", job.ID, fault.Internal, err)
		}
	}
	if r.refusals != nil {
		if err := json.Unmarshal(r.refusals, &job.Refusals); err != nil {
			return nil, fmt.Errorf("sqlite: job %s: %w: its refusals cannot be read: %w", job.ID, fault.Internal, err)
		}
	}
	return &job, nil
}

// refusalsText returns refusals as they are stored, and nil if there are none.
func refusalsText(refusals []dayfly.Refusal) ([]byte, error) {
	if len(refusals) == 0 {
		return nil, nil
	}
	encoded, err := json.Marshal(refusals)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w: refusals cannot be stored: %w", fault.Invalid, err)
	}
	return encoded, nil
}

func knownState(s dayfly.State) bool {
	switch s {
	case dayfly.Created, dayfly.Scheduled, dayfly.Queued, dayfly.Starting, dayfly.Running:
		return true
	}
	return s.Terminal()
}

func knownAttemptState(s dayfly.AttemptState) bool {
	switch s {
	case dayfly.AttemptCreating, dayfly.AttemptCreateUnknown, dayfly.AttemptBooting, dayfly.AttemptRunning:
		return true
	}
	return s.Terminal()
}

// attemptColumns are what [attemptRow.columns] receives, of attempts a.
const attemptColumns = `a.seq, a.id, a.number, a.state, a.fence, a.claimed_by, a.provider,
	a.queued_at, a.created_at, a.prepared_at, a.booted_at, a.claimed_at, a.ended_at, a.reason, a.message, a.started, a.report,
	a.price_rate, a.price_minimum, a.price_date, a.unbilled, a.runner`

// attemptRow is an attempt as it was read.
type attemptRow struct {
	store.Attempt
	report []byte
	price  priceRow
}

// columns returns where to scan attemptColumns.
func (r *attemptRow) columns() []column {
	return append([]column{
		number(&r.Seq), word(&r.ID), number(&r.Number), word(&r.State),
		number(&r.Fence), word(&r.ClaimedBy), word(&r.Provider),
		instant(&r.QueuedAt), instant(&r.CreatedAt), instant(&r.PreparedAt), instant(&r.BootedAt), instant(&r.ClaimedAt),
		instant(&r.EndedAt),
		word(&r.Reason), word(&r.Message), flag(&r.Started), document(&r.report),
	}, append(r.price.columns(), flag(&r.Unbilled), word(&r.Runner))...)
}

// report is what is known of an attempt when it has ended.
type report struct {
	Exit      *machine.Exit `json:"exit,omitempty"`
	FetchMS   int64         `json:"fetch_ms,omitempty"`
	RunMS     int64         `json:"run_ms,omitempty"`
	FinishMS  int64         `json:"finish_ms,omitempty"`
	MaxRSSKB  int64         `json:"max_rss_kb,omitempty"`
	UserMS    int64         `json:"user_ms,omitempty"`
	SystemMS  int64         `json:"system_ms,omitempty"`
	StdoutLen int64         `json:"stdout_len,omitempty"`
	StderrLen int64         `json:"stderr_len,omitempty"`
}

// decode returns the attempt without its job and machine. A row that this version of the program does not
// understand is fault.Internal.
func (r *attemptRow) decode() (*store.Attempt, error) {
	a := r.Attempt
	a.Price = r.price.decode()
	if !knownAttemptState(a.State) {
		return nil, fmt.Errorf("sqlite: attempt %s: %w: state %q is unknown to this version", a.ID, fault.Internal, a.State)
	}
	if r.report == nil {
		return &a, nil
	}
	var end report
	if err := json.Unmarshal(r.report, &end); err != nil {
		return nil, fmt.Errorf("sqlite: attempt %s: %w: its report cannot be read: %w", a.ID, fault.Internal, err)
	}
	a.Exit, a.FetchMS, a.RunMS, a.FinishMS = end.Exit, end.FetchMS, end.RunMS, end.FinishMS
	a.MaxRSSKB, a.UserMS, a.SystemMS = end.MaxRSSKB, end.UserMS, end.SystemMS
	a.StdoutLen, a.StderrLen = end.StdoutLen, end.StderrLen
	return &a, nil
}

// firstAttempt and lastAttempt bound the seqs of a job's attempts. They have room for a million of one job: attempts that
// are started or fail are counted against small limits, and one that is merely refused comes at most each half minute.
func firstAttempt(job int64) int64           { return job << 20 }
func lastAttempt(job int64) int64            { return job<<20 | (1<<20 - 1) }
func attemptSeq(job int64, number int) int64 { return job<<20 | int64(number) }

// machineColumns are what [machineRow.columns] receives, of attempts or adopted a.
const machineColumns = `a.machine, a.provider, a.machine_id, a.machine_state, a.machine_message, a.lifetime,
	a.region, a.image, a.location, a.created_at, a.delete_at, a.gone_at`

// machineRow is a machine as it was read.
type machineRow struct {
	store.Machine
	lifetime int64 // microseconds
}

// columns returns where to scan machineColumns.
func (r *machineRow) columns() []column {
	return []column{
		word(&r.Name), word(&r.Provider), word(&r.ID), word(&r.State), word(&r.Message), number(&r.lifetime),
		word(&r.Region), word(&r.Image), word(&r.Location),
		instant(&r.CreatedAt), instant(&r.DeleteAt), instant(&r.GoneAt),
	}
}

// of returns the machine of an attempt. One that is a pool's has its own name in place of the attempt's.
func (r *machineRow) of(a *store.Attempt, job string) *store.Machine {
	m := r.decode(a.ID, job)
	if a.Runner != "" {
		m.Name = a.Runner
	}
	return m
}

// decode returns the machine of an attempt of a job.
func (r *machineRow) decode(attempt, job string) *store.Machine {
	m := r.Machine
	m.Lifetime, m.Attempt, m.JobID = time.Duration(r.lifetime)*time.Microsecond, attempt, job
	return &m
}
