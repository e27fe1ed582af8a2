package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/engine"
	"github.com/dayfly-run/dayfly/internal/store"
)

func (a *API) addJobs() {
	add(a, route{
		method: http.MethodPost, path: "/v1/jobs", id: "submit-job", status: http.StatusCreated, body: reflect.TypeFor[dayfly.JobSpec](),
		summary: "Submit a job",
		text: "Answers 201 when the job is durable. A job with inputs then waits for them and for start; the answer says where to upload each. " +
			"With an Idempotency-Key the same request can be repeated safely: the job is made once, and a repeated request is answered " +
			"with 200, the header Idempotent-Replayed and that job. The same key with another body is refused with 409.",
	}, a.submit)
	add(a, route{
		method: http.MethodPost, path: "/v1/jobs/{id}/start", id: "start-job", summary: "Start a job whose inputs are uploaded",
		text: "Starting a job again is no error.",
	}, a.start)
	add(a, route{
		method: http.MethodPost, path: "/v1/jobs/{id}/cancel", id: "cancel-job", summary: "Cancel a job",
		text: "Answers when the wish is durable: no further attempt starts. A running command is told to stop; the job becomes canceled " +
			"when nothing of it runs any more. Canceling again is no error; a job that has finished answers 409 already_finished.",
	}, a.cancel)
	add(a, route{
		method: http.MethodPost, path: "/v1/jobs/{id}/retry", id: "retry-job", status: http.StatusCreated, summary: "Repeat a finished job as a new one",
		text: "The new job has the same spec and inputs, and names the old one in retried_from. With an Idempotency-Key the request can be " +
			"repeated safely, as when submitting: a repeated one is answered with 200 and Idempotent-Replayed.",
	}, a.retry)
	add(a, route{
		method: http.MethodDelete, path: "/v1/jobs/{id}", id: "delete-job", status: http.StatusNoContent,
		summary: "Delete a finished job with its output, inputs and artifacts",
		text: "When the job has just ended, the answer waits a few seconds for its machine to be gone. A job whose machine is still there " +
			"then is not deleted, and the answer is 409.",
	}, a.delete)
	add(a, route{method: http.MethodGet, path: "/v1/jobs", id: "list-jobs", summary: "List jobs, newest first"}, a.list)
	add(a, route{method: http.MethodGet, path: "/v1/jobs/{id}", id: "get-job", summary: "Show a job"}, a.show)
	add(a, route{
		method: http.MethodGet, path: "/v1/jobs/{id}/why", id: "explain-job", summary: "Explain why a job is where it is",
	}, a.why)
	add(a, route{
		method: http.MethodGet, path: "/v1/jobs/{id}/wait", id: "wait-for-job", summary: "Wait until a job has finished",
		text: "Answers with the job when it has finished or the time is over; the header Dayfly-Finished says which.",
	}, a.wait)
}

// jobInput names a job.
type jobInput struct {
	caller
	ID string `path:"id" maxLength:"128"`
}

// jobOutput is a job.
type jobOutput struct {
	Body *dayfly.Job
}

// newJobOutput is a job that the request made.
type newJobOutput struct {
	Status   int
	Location string `header:"Location" doc:"Where the job is."`
	Replayed string `header:"Idempotent-Replayed" doc:"true if an earlier request with the same key made the job."`
	Body     *dayfly.Job
}

// noJob refuses a job that there is not.
func noJob(id string) error {
	return fault.Say(fault.NotFound, "there is no job %.128s: it was never made here, or it has been deleted", id)
}

// ofJob gives an error about a job words, if it has none.
func ofJob(id string, err error) error {
	if fault.Of(err) == fault.NotFound {
		if _, ok := fault.Sentence(err); !ok {
			return noJob(id)
		}
	}
	return err
}

type submitInput struct {
	caller
	Key string `header:"Idempotency-Key" doc:"Names the submission: 1 to 200 visible ASCII characters."`
}

func (a *API) submit(ctx context.Context, in *submitInput) (*newJobOutput, error) {
	if err := wantJSON(in.r); err != nil {
		return nil, err
	}
	s := &engine.Submission{Key: in.Key}
	if err := checkKey(in.r, in.Key); err != nil {
		return nil, err
	}
	err := readBody(in.w, in.r, maxSubmit, func(data []byte) error {
		spec, err := a.decoders.spec.Decode(data)
		if err != nil {
			return err
		}
		s.Spec = *spec
		if s.Key != "" {
			hash := sha256.Sum256(data)
			s.BodyHash = hash[:]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	job, replayed, err := a.engine.Submit(ctx, s)
	if err != nil {
		return nil, err
	}
	if replayed {
		if job, err = a.engine.Job(ctx, job.ID); err != nil {
			return nil, err
		}
	}
	return a.newJob(in.r, job, replayed), nil
}

// checkKey refuses an Idempotency-Key that could be mistaken for another.
func checkKey(r *http.Request, key string) error {
	given := r.Header["Idempotency-Key"]
	if len(given) > 1 {
		return fault.Field("Idempotency-Key", "must be given once")
	}
	// An empty one is a client's mistake, whose repetitions would each make a job.
	if len(given) == 1 && key == "" || len(key) > 200 || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fault.Field("Idempotency-Key", "must be 1 to 200 visible ASCII characters")
	}
	return nil
}

func (a *API) newJob(r *http.Request, job *store.Job, replayed bool) *newJobOutput {
	out := &newJobOutput{Status: http.StatusCreated, Location: "/v1/jobs/" + job.ID, Body: a.view(r).job(job)}
	if replayed {
		out.Status, out.Replayed = http.StatusOK, "true"
	}
	return out
}

// changed answers with the whole of a job that the request has changed.
func (a *API) changed(ctx context.Context, in *jobInput, change func(context.Context, string) (*store.Job, error)) (*jobOutput, error) {
	if err := noBody(in.w, in.r); err != nil {
		return nil, err
	}
	if _, err := change(ctx, in.ID); err != nil {
		return nil, ofJob(in.ID, err)
	}
	return a.show(ctx, in)
}

func (a *API) start(ctx context.Context, in *jobInput) (*jobOutput, error) {
	return a.changed(ctx, in, a.engine.Start)
}

func (a *API) cancel(ctx context.Context, in *jobInput) (*jobOutput, error) {
	return a.changed(ctx, in, a.engine.Cancel)
}

type retryInput struct {
	caller
	ID  string `path:"id" maxLength:"128"`
	Key string `header:"Idempotency-Key" doc:"Names the retry: 1 to 200 visible ASCII characters."`
}

func (a *API) retry(ctx context.Context, in *retryInput) (*newJobOutput, error) {
	if err := checkKey(in.r, in.Key); err != nil {
		return nil, err
	}
	if err := noBody(in.w, in.r); err != nil {
		return nil, err
	}
	job, replayed, err := a.engine.Retry(ctx, in.ID, in.Key)
	if err != nil {
		return nil, ofJob(in.ID, err)
	}
	if job, err = a.engine.Job(ctx, job.ID); err != nil {
		return nil, err
	}
	return a.newJob(in.r, job, replayed), nil
}

func (a *API) delete(ctx context.Context, in *jobInput) (*struct{}, error) {
	if err := a.engine.Delete(ctx, in.ID); err != nil {
		return nil, ofJob(in.ID, err)
	}
	return nil, nil
}

func (a *API) show(ctx context.Context, in *jobInput) (*jobOutput, error) {
	job, err := a.engine.Job(ctx, in.ID)
	if err != nil {
		return nil, ofJob(in.ID, err)
	}
	return &jobOutput{a.view(in.r).job(job)}, nil
}

// whyOutput is an explanation.
type whyOutput struct {
	Body *dayfly.Why
}

func (a *API) why(ctx context.Context, in *jobInput) (*whyOutput, error) {
	why, err := a.engine.Why(ctx, in.ID)
	if err != nil {
		return nil, ofJob(in.ID, err)
	}
	return &whyOutput{why}, nil
}

type waitInput struct {
	caller
	ID      string `path:"id" maxLength:"128"`
	Timeout string `query:"timeout" default:"30s" doc:"How long to wait at most: 0 to 5m, as 90s or 1m30s or a number of seconds."`
}

// waitOutput is a job and whether it has finished.
type waitOutput struct {
	Finished bool `header:"Dayfly-Finished" doc:"Whether the job has finished, or the time is over."`
	Body     *dayfly.Job
}

const maxWait = 5 * time.Minute

func (a *API) wait(ctx context.Context, in *waitInput) (*waitOutput, error) {
	timeout, err := parseWait(in.Timeout)
	if err != nil {
		return nil, err
	}
	release, err := a.streams.take("requests waiting")
	if err != nil {
		return nil, err
	}
	defer release()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	rule, _ := accessOf(in.r.Pattern)
	permitted := func() error { return a.permit(in.r, rule) }
	ended, stop := a.engine.WatchEnd(in.ID)
	defer stop()
	for over := timeout == 0; ; {
		happened := ended()
		job, err := a.engine.Job(ctx, in.ID)
		if err != nil {
			return nil, ofJob(in.ID, err)
		}
		if err := permitted(); err != nil { // who could begin to wait may have lost the right to the answer
			return nil, err
		}
		if over || job.State.Terminal() {
			return &waitOutput{job.State.Terminal(), a.view(in.r).job(job)}, nil
		}
		if over, err = awaitEnd(ctx, happened, timer.C, permitted); ctx.Err() != nil {
			return nil, fault.Say(fault.Unavailable, "the server is stopping, and job %s has not finished; wait again", in.ID)
		} else if err != nil {
			return nil, err
		}
	}
}

// awaitEnd waits until something happens or the time is over. It returns an error when the caller may not wait any more.
func awaitEnd(ctx context.Context, happened <-chan struct{}, timeOver <-chan time.Time, permitted func() error) (over bool, err error) {
	ticker := time.NewTicker(permitEvery)
	defer ticker.Stop()
	for {
		select {
		case <-happened:
			return false, nil
		case <-timeOver:
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		case <-ticker.C:
			if err := permitted(); err != nil && fault.Of(err) != fault.Unavailable {
				return false, err
			}
		}
	}
}

// parseWait reads a length of time in the forms that bodies allow.
func parseWait(text string) (time.Duration, error) {
	wrong := fault.Field("timeout", "must be a length of time from 0 to %v, such as 30s, 1m30s or a number of seconds", maxWait)
	d, err := time.ParseDuration(text)
	if err != nil {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds != seconds || seconds < 0 || seconds > maxWait.Seconds() {
			return 0, wrong
		}
		d = time.Duration(seconds * float64(time.Second))
	}
	if d < 0 || d > maxWait {
		return 0, wrong
	}
	return d, nil
}

type listInput struct {
	caller
	State  []string `query:"state,explode" maxItems:"9" doc:"Only jobs in this state. May be repeated."`
	Queue  string   `query:"queue" maxLength:"64" doc:"Only jobs of this queue."`
	Name   string   `query:"name" maxLength:"200" doc:"Only jobs of exactly this name."`
	Label  []string `query:"label,explode" maxItems:"64" doc:"Only jobs with this label, as key=value. May be repeated; all must match."`
	Cost   bool     `query:"cost" doc:"Say what each job has cost, which takes longer."`
	Limit  int      `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many at most. A page of large jobs has fewer."`
	Cursor string   `query:"cursor" maxLength:"200" doc:"The next_cursor of the page before, with the same filters."`
}

// jobList is one page of jobs.
type jobList struct {
	Items      []*dayfly.Job `json:"items" doc:"Without their attempts, inputs and artifacts."`
	NextCursor string        `json:"next_cursor,omitempty" doc:"To pass as cursor for the next page; missing when this is the last."`
}

type listOutput struct {
	Body jobList
}

func (a *API) list(ctx context.Context, in *listInput) (*listOutput, error) {
	q := &store.Query{Queue: in.Queue, Name: in.Name, Limit: in.Limit}
	for i, s := range in.State {
		state := dayfly.State(s)
		if !slices.Contains(states(), state) {
			return nil, fault.Field(fmt.Sprintf("state[%d]", i), "%.40q is not a state of jobs", s)
		}
		q.States = append(q.States, state)
	}
	for i, l := range in.Label {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" || len(l) > 1000 {
			return nil, fault.Field(fmt.Sprintf("label[%d]", i), "must be key=value")
		}
		if other, twice := q.Labels[key]; twice && other != value {
			return nil, fault.Field(fmt.Sprintf("label[%d]", i), "no job has two values of the label %.100s", key)
		}
		if q.Labels == nil {
			q.Labels = map[string]string{}
		}
		q.Labels[key] = value
	}
	c := cursor{list: "jobs", filters: filtersOf(in.r)}
	before, err := c.open(in.Cursor)
	if err != nil {
		return nil, err
	}
	if before != "" {
		if q.Before, err = strconv.ParseInt(before, 10, 64); err != nil || q.Before <= 0 {
			return nil, errCursor()
		}
	}
	jobs, more, err := a.engine.Jobs(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &listOutput{jobList{Items: make([]*dayfly.Job, 0, len(jobs))}}
	view := a.view(in.r)
	for _, job := range jobs {
		out.Body.Items = append(out.Body.Items, view.job(job))
	}
	if in.Cost {
		if err := a.addCostsOf(ctx, view, out.Body.Items); err != nil {
			return nil, err
		}
	}
	if more {
		out.Body.NextCursor = c.seal(strconv.FormatInt(jobs[len(jobs)-1].Seq, 10))
	}
	return out, nil
}
