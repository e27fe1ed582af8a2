package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

func TestASubmittedJobIsShownWithWhereToUploadItsInputs(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	got := g.do("POST", "/v1/jobs", `{"command":["ffmpeg","-i","in.wav"],"inputs":[{"name":"in.wav","content_type":"audio/wav"},{"name":"a b/ü.txt"}]}`, "Content-Type: application/json")
	job := decode[dayfly.Job](t, got, http.StatusCreated)
	if location := got.header.Get("Location"); location != "/v1/jobs/"+job.ID || got.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("Location: got %q, want /v1/jobs/%s; Idempotent-Replayed: got %q", location, job.ID, got.header.Get("Idempotent-Replayed"))
	}
	if job.State != dayfly.Created || len(job.Inputs) != 2 || job.Attempts == nil || job.Artifacts == nil {
		t.Fatalf("the job is %s", got.body)
	}
	upload := job.Inputs[0].Upload
	if upload == nil || upload.Method != "PUT" || upload.Headers["Content-Type"] != "audio/wav" || !strings.HasPrefix(upload.URL, "http://127.0.0.1:7700/v1/blobs/inputs/") {
		t.Errorf("the first input is to be uploaded by %+v", upload)
	}
	if strings.ContainsAny(job.Inputs[1].Upload.URL, " ü") || job.Inputs[1].Upload.Headers != nil {
		t.Errorf("the second input is to be uploaded by %+v", job.Inputs[1].Upload)
	}
}

func TestTheSameKeyMakesOneJob(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	const body = `{"command":["true"]}`
	first := decode[dayfly.Job](t, g.do("POST", "/v1/jobs", body, "Idempotency-Key: k1"), http.StatusCreated)
	got := g.do("POST", "/v1/jobs", body, "Idempotency-Key: k1")
	again := decode[dayfly.Job](t, got, http.StatusOK)
	if again.ID != first.ID || got.header.Get("Idempotent-Replayed") != "true" || got.header.Get("Location") != "/v1/jobs/"+first.ID {
		t.Errorf("repeated: got job %s, header %v; want %s and Idempotent-Replayed", again.ID, got.header, first.ID)
	}
	g.do("POST", "/v1/jobs", `{"command":["false"]}`, "Idempotency-Key: k1").want(t, "the same key with another body", 409, fault.IdempotencyMismatch)
	other := decode[dayfly.Job](t, g.do("POST", "/v1/jobs", body, "Idempotency-Key: k2"), http.StatusCreated)
	if other.ID == first.ID {
		t.Error("another key made no other job")
	}
}

func TestBadSubmissionsAreRefusedAndMakeNothing(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	long := strings.Repeat("a", 201)
	deep := strings.Repeat("[", 100_000)
	pad := func(n int) string {
		const head, tail = `{"command":["true"],"payload":"`, `"}`
		return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
	}
	for name, test := range map[string]struct {
		body    string
		headers []string
		status  int
		code    fault.Kind
		field   string
		detail  string
	}{
		"no body":               {"", nil, 400, fault.Invalid, "", "empty"},
		"not JSON":              {"command=true", nil, 400, fault.Invalid, "", "expected"},
		"a form":                {"command=true", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, fault.Invalid, "Content-Type", "application/json"},
		"plain text":            {`{"command":["true"]}`, []string{"Content-Type: text/plain"}, 415, fault.Invalid, "Content-Type", "application/json"},
		"a broken type":         {`{"command":["true"]}`, []string{"Content-Type: ;;"}, 415, fault.Invalid, "Content-Type", "application/json"},
		"cut":                   {`{"command":["true"`, nil, 400, fault.Invalid, "", "byte 18"},
		"a second document":     {`{"command":["true"]}{}`, nil, 400, fault.Invalid, "", "after the end"},
		"a name twice":          {`{"command":["a"],"command":["b"]}`, nil, 400, fault.Invalid, "", "twice"},
		"NaN":                   {`{"command":["a"],"cpus":NaN}`, nil, 400, fault.Invalid, "", "expected"},
		"nested absurdly":       {`{"command":["a"],"payload":` + deep, nil, 400, fault.Invalid, "", "64 deep"},
		"not UTF-8":             {"{\"command\":[\"\xff\"]}", nil, 400, fault.Invalid, "", "UTF-8"},
		"no command":            {`{}`, nil, 422, fault.Invalid, "command", "must name a program"},
		"an empty command":      {`{"command":[]}`, nil, 422, fault.Invalid, "command", "at least 1"},
		"a command as text":     {`{"command":"ls -l"}`, nil, 422, fault.Invalid, "command", "must be an array"},
		"an unknown member":     {`{"command":["a"],"comand":1}`, nil, 422, fault.Invalid, "comand", "not known"},
		"an unknown input part": {`{"command":["a"],"inputs":[{"nmae":"x"}]}`, nil, 422, fault.Invalid, "inputs[0].nmae", "not known"},
		"an empty input name":   {`{"command":["a"],"inputs":[{"name":""}]}`, nil, 422, fault.Invalid, "inputs[0].name", "at least 1"},
		"a huge number":         {`{"command":["a"],"priority":1e400}`, nil, 422, fault.Invalid, "priority", "outside"},
		"negative processes":    {`{"command":["a"],"processes":-1}`, nil, 422, fault.Invalid, "processes", "0"},
		"too many processes":    {`{"command":["a"],"processes":4194305}`, nil, 422, fault.Invalid, "processes", "4194304"},
		"a huge whole number":   {`{"command":["a"],"memory_mb":123456789012345678901234567890}`, nil, 422, fault.Invalid, "memory_mb", "64 bits"},
		"a bad duration":        {`{"command":["a"],"timeouts":{"run":"1 hour"}}`, nil, 422, fault.Invalid, "timeouts.run", "duration"},
		"an empty array":        {`[]`, nil, 422, fault.Invalid, "", "must be an object"},
		"a long key":            {`{"command":["a"]}`, []string{"Idempotency-Key: " + long}, 422, fault.Invalid, "Idempotency-Key", "200"},
		"a key with a space":    {`{"command":["a"]}`, []string{"Idempotency-Key: a b"}, 422, fault.Invalid, "Idempotency-Key", "visible"},
		"an empty key":          {`{"command":["a"]}`, []string{"Idempotency-Key: "}, 422, fault.Invalid, "Idempotency-Key", "visible"},
		"a blank key":           {`{"command":["a"]}`, []string{"Idempotency-Key:  "}, 422, fault.Invalid, "Idempotency-Key", "visible"},
		"two keys":              {`{"command":["a"]}`, []string{"Idempotency-Key: a", "Idempotency-Key: b"}, 422, fault.Invalid, "Idempotency-Key", "once"},
		"one byte too many":     {pad(1<<20 + 1), nil, 413, fault.TooLarge, "", "1048576"},
	} {
		got := g.do("POST", "/v1/jobs", test.body, test.headers...)
		p := got.want(t, name, test.status, test.code)
		if p.Field != test.field || !strings.Contains(p.Detail, test.detail) {
			t.Errorf("%s: got field %q and detail %q; want field %q and a detail with %q", name, p.Field, p.Detail, test.field, test.detail)
		}
	}
	g.do("POST", "/v1/jobs?token=x", `{"command":["a"]}`).want(t, "an unknown parameter", 422, fault.Invalid)
	if n := len(g.engine.order); n != 0 {
		t.Errorf("bad submissions made %d jobs", n)
	}
	if got := g.do("POST", "/v1/jobs", pad(1<<20)); got.status != http.StatusCreated {
		t.Errorf("a body of exactly the limit: got %d: %.200s", got.status, got.body)
	}
}

func TestAllThatIsWrongIsListed(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	p := g.do("POST", "/v1/jobs", `{"command":[1],"name":2}`).want(t, "two wrong members", 422, fault.Invalid)
	if p.Field != "command[0]" || len(p.Errors) != 2 || p.Errors[1].Field != "name" || !strings.Contains(p.Detail, "1 more") {
		t.Errorf("two wrong members: got %+v", p)
	}
}

func TestJobsAreStartedCanceledRetriedAndDeleted(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Created)
	if job := decode[dayfly.Job](t, g.do("POST", "/v1/jobs/job_a/start", ""), 200); job.State != dayfly.Queued {
		t.Errorf("started: got %s, want queued", job.State)
	}
	g.do("POST", "/v1/jobs/job_a/retry", "").want(t, "retrying an unfinished job", 409, fault.Conflict)
	g.do("DELETE", "/v1/jobs/job_a", "").want(t, "deleting an unfinished job", 409, fault.Conflict)
	if job := decode[dayfly.Job](t, g.do("POST", "/v1/jobs/job_a/cancel", "{}"), 200); job.State != dayfly.Canceled {
		t.Errorf("canceled: got %s, want canceled", job.State)
	}
	g.do("POST", "/v1/jobs/job_a/start", "").want(t, "starting a finished job", 409, fault.AlreadyFinished)
	got := g.do("POST", "/v1/jobs/job_a/retry", "", "Idempotency-Key: r")
	if job := decode[dayfly.Job](t, got, 201); job.RetriedFrom != "job_a" || got.header.Get("Location") != "/v1/jobs/"+job.ID {
		t.Errorf("retried: got %s, header %v", got.body, got.header)
	}
	first := decode[dayfly.Job](t, got, 201).ID
	again := g.do("POST", "/v1/jobs/job_a/retry", "", "Idempotency-Key: r")
	if job := decode[dayfly.Job](t, again, 200); job.ID != first || again.header.Get("Idempotent-Replayed") != "true" || again.header.Get("Location") != "/v1/jobs/"+first {
		t.Errorf("retried again with the same key: got %s, header %v; want %s and Idempotent-Replayed", job.ID, again.header, first)
	}
	if got := g.do("DELETE", "/v1/jobs/job_a", ""); got.status != http.StatusNoContent || len(got.body) != 0 {
		t.Errorf("deleting: got %d %s, want 204 and nothing", got.status, got.body)
	}
	for _, request := range [][2]string{
		{"GET", "/v1/jobs/job_a"}, {"GET", "/v1/jobs/job_a/why"}, {"GET", "/v1/jobs/job_a/logs"}, {"GET", "/v1/jobs/job_a/events"},
		{"GET", "/v1/jobs/job_a/wait"}, {"POST", "/v1/jobs/job_a/start"}, {"POST", "/v1/jobs/job_a/cancel"}, {"POST", "/v1/jobs/job_a/retry"}, {"DELETE", "/v1/jobs/job_a"},
	} {
		p := g.do(request[0], request[1], "").want(t, request[0]+" "+request[1], 404, fault.NotFound)
		if !strings.Contains(p.Detail, "job_a") {
			t.Errorf("%s %s: the detail %q does not name the job", request[0], request[1], p.Detail)
		}
	}
	p := g.do("POST", "/v1/jobs/job_1/start", `{"now":true}`).want(t, "a body where none belongs", 422, fault.Invalid)
	if !strings.Contains(p.Detail, "no body") {
		t.Errorf("a body where none belongs: %q", p.Detail)
	}
}

func TestListsArePagedAndFiltered(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	for i := range 5 {
		label := "x"
		if i%2 == 0 {
			label = "y"
		}
		decode[dayfly.Job](t, g.do("POST", "/v1/jobs", `{"command":["true"],"labels":{"team":"`+label+`"}}`), 201)
	}
	type page struct {
		Items []dayfly.Job `json:"items"`
		Next  string       `json:"next_cursor"`
	}
	var ids []string
	for target := "/v1/jobs?limit=2"; ; {
		p := decode[page](t, g.do("GET", target, ""), 200)
		for _, job := range p.Items {
			ids = append(ids, job.ID)
		}
		if p.Next == "" {
			break
		}
		target = "/v1/jobs?limit=2&cursor=" + p.Next
	}
	if got := strings.Join(ids, " "); got != "job_5 job_4 job_3 job_2 job_1" {
		t.Errorf("all pages: got %s", got)
	}
	g.engine.page = 3
	large := decode[page](t, g.do("GET", "/v1/jobs?limit=1000", ""), 200)
	if rest := decode[page](t, g.do("GET", "/v1/jobs?limit=1000&cursor="+large.Next, ""), 200); len(large.Items) != 3 || len(rest.Items) != 2 {
		t.Errorf("of five large jobs a page has %d and the next %d, want 3 and 2", len(large.Items), len(rest.Items))
	}
	g.engine.page = 0
	if p := decode[page](t, g.do("GET", "/v1/jobs?label=team%3Dy&state=queued&state=running", ""), 200); len(p.Items) != 3 {
		t.Errorf("filtered by label: got %d jobs, want 3", len(p.Items))
	}
	if got := g.do("GET", "/v1/jobs?name=nobody", ""); !strings.Contains(string(got.body), `"items":[]`) {
		t.Errorf("an empty list: got %s", got.body)
	}
	cursor := decode[page](t, g.do("GET", "/v1/jobs?limit=1", ""), 200).Next
	for name, target := range map[string]string{
		"limit 0":             "/v1/jobs?limit=0",
		"limit too large":     "/v1/jobs?limit=1000000000",
		"limit no number":     "/v1/jobs?limit=x",
		"limit a fraction":    "/v1/jobs?limit=1.5",
		"limit negative":      "/v1/jobs?limit=-1",
		"limit empty":         "/v1/jobs?limit=",
		"limit twice":         "/v1/jobs?limit=1&limit=2",
		"an unknown state":    "/v1/jobs?state=done",
		"a label without =":   "/v1/jobs?label=team",
		"a label without key": "/v1/jobs?label=%3Dx",
		"two values":          "/v1/jobs?label=a%3D1&label=a%3D2",
		"many labels":         "/v1/jobs?" + strings.Repeat("label=a%3Db&", 1000) + "limit=1",
		"an unknown filter":   "/v1/jobs?sate=queued",
		"a bad escape":        "/v1/jobs?name=%zz",
		"a made-up cursor":    "/v1/jobs?cursor=abc",
		"a changed cursor":    "/v1/jobs?cursor=A" + cursor[1:],
		"another list":        "/v1/machines?cursor=" + cursor,
		"another filter":      "/v1/jobs?queue=x&cursor=" + cursor,
		"a number as cursor":  "/v1/jobs?cursor=3",
	} {
		g.do("GET", target, "").want(t, name, 422, fault.Invalid)
	}
}

func TestWaitingAnswersWhenTheJobHasFinished(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Running, "att_a")
	got := g.do("GET", "/v1/jobs/job_a/wait?timeout=0", "")
	if job := decode[dayfly.Job](t, got, 200); job.State != dayfly.Running || got.header.Get("Dayfly-Finished") != "false" {
		t.Errorf("not waiting: got %s, Dayfly-Finished %q", job.State, got.header.Get("Dayfly-Finished"))
	}
	got = g.do("GET", "/v1/jobs/job_a/wait?timeout=0.01", "")
	if got.header.Get("Dayfly-Finished") != "false" {
		t.Errorf("waiting in vain: Dayfly-Finished %q", got.header.Get("Dayfly-Finished"))
	}
	done := make(chan answer)
	go func() { done <- g.do("GET", "/v1/jobs/job_a/wait?timeout=5m", "") }()
	waitFor(t, "somebody watches the job", func() bool {
		g.engine.mu.Lock()
		defer g.engine.mu.Unlock()
		return g.engine.watchers[endOf("job_a")] != nil
	})
	g.engine.change("job_a", func(j *jobRow) { j.State = dayfly.Succeeded })
	got = <-done
	if job := decode[dayfly.Job](t, got, 200); job.State != dayfly.Succeeded || got.header.Get("Dayfly-Finished") != "true" {
		t.Errorf("waiting: got %s, Dayfly-Finished %q", job.State, got.header.Get("Dayfly-Finished"))
	}
	for _, timeout := range []string{"-1s", "5m1s", "soon", "NaN", "1e9", "-0.5"} {
		p := g.do("GET", "/v1/jobs/job_a/wait?timeout="+timeout, "").want(t, "timeout "+timeout, 422, fault.Invalid)
		if p.Field != "timeout" {
			t.Errorf("timeout %s: got field %q", timeout, p.Field)
		}
	}
}

func TestWhyExplains(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.engine.addJob("job_a", dayfly.Queued)
	if why := decode[dayfly.Why](t, g.do("GET", "/v1/jobs/job_a/why", ""), 200); why.Job != "job_a" || len(why.Answers) != 1 {
		t.Errorf("why: got %+v", why)
	}
}
