package api

import (
	"net/http"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/store"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

// fileLife is how long the signed URLs in an answer are good for. Asking again gives fresh ones.
const fileLife = time.Hour

// view shows what the store keeps as the API shows it, to one caller at one moment.
type view struct {
	key    ticket.Key
	base   string // the base URL as the caller sees it
	now    time.Time
	upload int64 // bytes of an input at most
}

func (a *API) view(r *http.Request) *view {
	return &view{key: a.key, base: a.baseURL(r), now: a.now(), upload: a.limits.Upload}
}

// job shows a job.
func (v *view) job(j *store.Job) *dayfly.Job {
	out := &dayfly.Job{
		ID: j.ID, Name: j.Spec.Name, State: j.State,
		Reason: j.Reason, Message: j.Message, ExitCode: j.ExitCode, Result: j.Result, Progress: j.Progress,
		CreatedAt: j.CreatedAt.UTC(), RunAt: moment(j.RunAt), QueuedAt: moment(j.QueuedAt), FinishedAt: moment(j.FinishedAt),
		Refusals: j.Refusals, CancelRequested: !j.CancelRequestedAt.IsZero(), RetriedFrom: j.RetriedFrom,
		Spec:      j.Spec,
		Attempts:  make([]dayfly.Attempt, 0, len(j.AttemptLog)),
		Artifacts: make([]dayfly.Artifact, 0, len(j.Artifacts)),
	}
	for i := range j.Inputs {
		out.Inputs = append(out.Inputs, v.input(j, &j.Inputs[i]))
	}
	for _, a := range j.AttemptLog {
		out.Attempts = append(out.Attempts, v.attempt(a))
	}
	out.Cost = v.costOf(j.AttemptLog)
	for _, artifact := range j.Artifacts {
		artifact.DownloadURL = v.key.URL(v.base, ticket.File{
			Method: http.MethodGet, Key: artifactKey(j, artifact.Name), Expires: v.now.Add(fileLife), Name: artifact.Name,
		})
		out.Artifacts = append(out.Artifacts, artifact)
	}
	return out
}

// artifactKey returns where an artifact of a job is: with the attempt that was accepted, which is the last.
func artifactKey(j *store.Job, name string) string { return ticket.ArtifactKey(j.ID, j.Attempt, name) }

// input shows an input, and while the job waits for it how to upload it.
func (v *view) input(j *store.Job, in *store.Input) dayfly.Input {
	out := dayfly.Input{Name: in.Name, ContentType: in.ContentType, Uploaded: !in.StoredAt.IsZero(), Size: in.Size, SHA256: in.SHA256}
	if j.State != dayfly.Created {
		return out
	}
	expires := v.now.Add(fileLife).Truncate(time.Second).UTC()
	out.Upload = &dayfly.Upload{
		Method: http.MethodPut,
		URL: v.key.URL(v.base, ticket.File{
			Method: http.MethodPut, Key: ticket.InputKey(j.ID, in.Name), Expires: expires, Limit: v.upload, ContentType: in.ContentType,
		}),
		ExpiresAt: expires,
	}
	if in.ContentType != "" {
		out.Upload.Headers = map[string]string{"Content-Type": in.ContentType}
	}
	return out
}

func (v *view) attempt(a *store.Attempt) dayfly.Attempt {
	out := dayfly.Attempt{
		ID: a.ID, Number: a.Number, State: a.State, Reason: a.Reason, Message: a.Message, Phases: phases(a, v.now),
		CreatedAt: a.CreatedAt.UTC(), EndedAt: moment(a.EndedAt),
		MaxRSSKB: a.MaxRSSKB, UserMS: a.UserMS, SystemMS: a.SystemMS,
	}
	if p := a.Preparation; p != nil {
		out.Preparation = &dayfly.Preparation{Text: p.Text, Done: p.Done, Total: p.Total}
		out.Phases.Preparing, out.Phases.Creating = out.Phases.Creating, nil
	}
	if a.Machine != nil {
		out.Machine, out.Cost = v.machine(a.Machine), v.cost(a.Meter())
	}
	if a.Exit != nil {
		code := a.Exit.Code
		out.ExitCode, out.Signal = &code, a.Exit.Signal
	}
	return out
}

func (v *view) machine(m *store.Machine) dayfly.Machine {
	var kept *time.Time
	if m.State == store.MachineKept {
		kept = moment(m.DeleteAt)
	}
	out := dayfly.Machine{
		KeptUntil: kept, Name: m.Name, Provider: m.Provider, Region: m.Region, Image: m.Image, State: string(m.State), Location: m.Location, Job: m.JobID, Attempt: m.Attempt,
		CreatedAt: m.CreatedAt.UTC(), GoneAt: moment(m.GoneAt), Message: m.Message,
	}
	if len(m.Slots) == 0 {
		return out
	}
	out.Pool, out.Use = m.Slots[0].Pool, string(store.Together(m.Slots))
	for _, r := range m.Slots {
		out.Uses += r.Uses
		if r.Divided() {
			out.Slots = append(out.Slots, dayfly.Slot{Use: string(r.State), Job: r.JobID, Attempt: r.Attempt, Uses: r.Uses})
		}
	}
	return out
}

// phases computes how long each part of an attempt took, or has taken up to now.
func phases(a *store.Attempt, now time.Time) dayfly.Phases {
	end := a.EndedAt
	if end.IsZero() {
		end = now
	}
	var p dayfly.Phases
	p.Queued = milliseconds(a.QueuedAt, a.CreatedAt)
	// Agents often call before their provider has answered, and then the machine counts as made.
	made, asked := earliest(a.BootedAt, a.ClaimedAt), a.CreatedAt
	if !a.PreparedAt.IsZero() {
		asked = a.PreparedAt
		p.Preparing = milliseconds(a.CreatedAt, asked)
	}
	if made.IsZero() {
		p.Creating = milliseconds(asked, end)
		return p
	}
	p.Creating = milliseconds(asked, made)
	if a.ClaimedAt.IsZero() {
		p.Booting = milliseconds(made, end)
		return p
	}
	begun := a.ClaimedAt.Add(time.Duration(a.FetchMS) * time.Millisecond)
	ran := time.Duration(a.RunMS) * time.Millisecond
	switch {
	case !a.State.Terminal() || a.State == dayfly.AttemptLost:
		// Nobody has reported how long what took.
		p.Booting, p.Running = milliseconds(made, begun), milliseconds(begun, end)
	case !a.Started:
		p.Booting = milliseconds(made, end)
	default:
		p.Booting, p.Running = milliseconds(made, begun), milliseconds(begun, begun.Add(ran))
		p.Finishing = milliseconds(begun.Add(ran), end)
	}
	return p
}

// milliseconds returns the time from one moment to another, which is never negative although clocks are set back; nil
// when it has not begun.
func milliseconds(from, to time.Time) *float64 {
	if from.IsZero() {
		return nil
	}
	ms := max(0, float64(to.Sub(from).Microseconds())/1000)
	return &ms
}

// earliest returns the earlier of two moments, of those that there are.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
