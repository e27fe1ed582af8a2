package flyapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/flyapi"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

func TestWhatCannotBeIsRefusedWithWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	config := func(rest string) string { return `{"config":{"image":"a",` + rest + `}}` }
	cases := []struct {
		body   string
		status int
		text   string // a part of it
	}{
		{``, 400, "config is required"},
		{`{`, 400, "the body is not JSON"},
		{`[]`, 400, "json: cannot unmarshal array into Go value of type struct"},
		{"{\"config\":{\"image\":\"\xff\"}}", 400, "not UTF-8"},
		{`{"config":[]}`, 400, "config is required and must be an object"},
		{`{"config":{}}`, 400, "config.image is required"},
		{`{"config":{"image":"a b"}}`, 400, "not a reference"},
		{`{"config":{"image":7}}`, 400, "json: cannot unmarshal number into Go struct field image of type string"},
		{`{"name":"a/b","config":{"image":"a"}}`, 422, "is not the name of a machine"},
		{`{"region":"moon","config":{"image":"a"}}`, 400, `region "moon" is not one of the regions`},
		{`{"lease_ttl":-1,"config":{"image":"a"}}`, 400, "lease_ttl"},
		{config(`"size":"shared-cpu-3x"`), 422, "'shared-cpu-3x' is an invalid machine size, choose one of: [shared-cpu-1x, "},
		{config(`"size":"large"`), 422, "invalid machine preset requested, 'large', expected to start with 'shared' or 'performance'"},
		{config(`"size":"shared-cpu-1x","guest":{"cpus":1,"memory_mb":256}`), 422, "mutually exclusive"},
		{config(`"guest":{"cpus":1,"memory_mb":128}`), 422, "minimum required memory for 1 shared CPUs is 256 MiB"},
		{config(`"guest":{"cpus":1,"memory_mb":4096}`), 422, "maximum allowed memory for 1 shared CPUs is 2048 MiB"},
		{config(`"guest":{"cpus":1,"memory_mb":300}`), 422, "multiple of 256"},
		{config(`"guest":{"cpu_kind":"performance","cpus":1,"memory_mb":1024}`), 422, "minimum required memory for 1 performance CPUs is 2048 MiB"},
		{config(`"guest":{"cpu_kind":"performance","cpus":1,"memory_mb":16384}`), 422, "maximum allowed memory"},
		{config(`"guest":{"cpus":3}`), 422, "invalid number of CPUs, 3"},
		{config(`"guest":{"cpus":1.5}`), 400, "json: cannot unmarshal number 1.5"},
		{config(`"guest":{"cpu_kind":"quick","cpus":1}`), 422, "not one of shared, performance"},
		{config(`"restart":{"policy":"on-fail"}`), 422, "'on-fail' is not one of no, on-failure, always"},
		{config(`"restart":{"max_retries":-1}`), 422, "max_retries"},
		{config(`"schedule":"minutely"`), 422, "not one of hourly, daily, weekly, monthly"},
		{config(`"stop_config":{"timeout":"soon"}`), 400, "is not a duration"},
		{config(`"stop_config":{"timeout":"6m"}`), 422, "from 0s to 5m0s"},
		{config(`"stop_config":{"timeout":1.5}`), 400, "is not a duration"},
		{config(`"stop_config":{"signal":"SIGNAL"}`), 400, "is not a signal"},
		{config(`"files":[{"guest_path":"events.json","raw_value":""}]`), 422, "is not an absolute path"},
		{config(`"files":[{"guest_path":"/a/../b","raw_value":""}]`), 422, "is not an absolute path"},
		{config(`"files":[{"guest_path":"/a","raw_value":"%%%"}]`), 422, "not base64"},
		{config(`"files":[{"guest_path":"/a"}]`), 422, "has no raw_value"},
		{config(`"files":[{"guest_path":"/a","raw_value":""},{"guest_path":"/a","raw_value":""}]`), 422, "is given twice"},
		{config(`"files":[{"guest_path":"/a","secret_name":"S"}]`), 422, "secrets are not served"},
		{config(`"files":[{"guest_path":"/a","image_config":"i"}]`), 422, "image_config"},
		{config(`"files":[{"guest_path":"/a","raw_value":"","mode":4095}]`), 422, "permission bits"},
		{config(`"env":{"A=B":"c"}`), 422, "not a variable"},
		{config(`"env":{"A":7}`), 400, "json: cannot unmarshal number"},
		{config(`"processes":[{"cmd":["a"]},{}]`), 422, "each of several processes"},
		{config(`"processes":[{"cmd":"a"}]`), 400, "json: cannot unmarshal string"},
		{config(`"processes":[{"secrets":[{"env_var":"A"}]}]`), 422, "not served"},
		{config(`"containers":[{}]`), 422, "config.containers is not served"},
		{config(`"mounts":[{},{}]`), 422, "one volume"},
		{config(`"services":[{"autostop":"maybe"}]`), 400, "autostop"},
		{config(`"metadata":{"":"x"}`), 422, "config.metadata"},
		{config(`"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100)), 400, "nested more than"},
	}
	for _, c := range cases {
		a := h.call("POST", machines, c.body)
		if a.status != c.status || !strings.Contains(a.text(), c.text) {
			t.Errorf("%.120s: got %d %s, want %d with %q", c.body, a.status, a.body, c.status, c.text)
		}
		if a.header.Get("fly-request-id") == "" {
			t.Errorf("%.120s: the answer has no fly-request-id", c.body)
		}
	}
	huge := `{"config":{"image":"a","env":{"A":"` + strings.Repeat("x", 3<<20) + `"}}}`
	if a := h.call("POST", machines, huge); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of three MiB: got %d, want 413", a.status)
	}
	if got := h.launches(); len(got) != 0 {
		t.Errorf("launches after refusals alone: got %+v, want none", got)
	}
	var list []shown
	if h.want(200, &list, "GET", machines+"?include_deleted=true", nil); len(list) != 0 {
		t.Errorf("machines after refusals alone: got %+v, want none", list)
	}
}

func TestABodyOfAStopThatIsAListIsRefusedInFlysWords(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.started(idle)
	a := h.call("POST", machines+"/"+m.ID+"/stop", `[]`)
	if a.status != 400 || !strings.HasPrefix(a.text(), "json: cannot unmarshal array") {
		t.Errorf("got %d %s, want 400 json: cannot unmarshal array…", a.status, a.body)
	}
	for _, body := range []string{`{"signal":"SIGNAL"}`, `{"signal":true}`, `{"timeout":"6m"}`, `{"timeout":-1}`} {
		h.want(400, nil, "POST", machines+"/"+m.ID+"/stop", body)
	}
}

func TestWhatIsNotServedIsSaidSo(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for path, want := range map[string]int{"/v1/apps/app/volumes": 404, "/v1/apps/app/secrets": 404, "/v1/platform": 404} {
		if a := h.call("GET", path, nil); a.status != want || a.text() == "" {
			t.Errorf("GET %s: got %d %s, want %d and a sentence", path, a.status, a.body, want)
		}
	}
	h.want(405, nil, "PATCH", "/v1/apps", nil)
}

func TestAProvidersRefusalIsTheAnswerOfTheCreate(t *testing.T) {
	t.Parallel()
	cases := map[fault.Kind]struct {
		status int
		text   string
	}{
		fault.Exhausted:   {409, "aborted: insufficient resources available to fulfill request: "},
		fault.Invalid:     {422, "invalid_argument: "},
		fault.Unsupported: {422, "invalid_argument: "},
		fault.Denied:      {422, "invalid_argument: "},
		fault.Conflict:    {409, "already_exists: "},
	}
	for kind, want := range cases {
		h := open(t, nil)
		h.cloud.Fail(memmachine.Create, memmachine.Refuse(kind)).Times(1)
		a := h.call("POST", machines, `{"name":"n","config":{"image":"a"}}`)
		if a.status != want.status || !strings.HasPrefix(a.text(), want.text) {
			t.Errorf("%s: got %d %s, want %d %s…", kind, a.status, a.body, want.status, want.text)
		}
		h.want(200, nil, "POST", machines, `{"name":"n","config":{"image":"a"}}`) // the name is free again
	}
}

func TestAnAmbiguousFailureOfTheProviderIsNobodysButOurs(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]memmachine.Fault{
		"unavailable":            memmachine.Refuse(fault.Unavailable),
		"carried out, timed out": memmachine.ExecuteThenTimeout,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, nil)
			h.cloud.Fail(memmachine.Create, failure).Times(2)
			h.cloud.Fail(memmachine.Destroy, memmachine.Refuse(fault.Unavailable)).Times(2)
			m := h.started(idle)
			if got := h.launches(); len(got) != 1 {
				t.Errorf("launches: got %+v, want one", got)
			}
			h.want(200, nil, "DELETE", machines+"/"+m.ID+"?force=true", nil)
			h.wait(m.ID, "destroyed")
			if got := h.launches(); len(got) != 0 {
				t.Errorf("launches of a destroyed machine: got %+v, want none", got)
			}
		})
	}
}

func TestAMachineThatCouldNotBeLaunchedIsDestroyedAndSaysWhy(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Invalid)).Times(1)
	h.want(422, nil, "POST", machines, `{"config":{"image":"a"}}`)
	var list []shown
	h.want(200, &list, "GET", machines+"?include_deleted=true", nil)
	if len(list) != 1 || list[0].State != "destroyed" {
		t.Fatalf("the machines: got %+v, want one that is destroyed", list)
	}
	got := h.get(list[0].ID)
	var story []string
	for _, e := range got.Events {
		story = append(story, e.Type+" "+e.Status+" "+e.Source)
	}
	if want := []string{"destroy destroyed flyd", "launch launch_failed flyd", "launch created user"}; !slices.Equal(story, want) {
		t.Errorf("its events, newest first: got %q, want %q", story, want)
	}
	if why, _ := got.Events[1].Request["error"].(string); !strings.Contains(why, "cannot be created as its configuration asks") {
		t.Errorf("the event of the failure: got %+v, want what the provider said", got.Events[1])
	}
	h.wait(got.ID, "destroyed")
}

func TestARefusalForGoodLeavesAMachineThatHasFailed(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.reach("stopped")
	path := machines + "/" + m.ID
	refused := h.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Invalid))
	h.want(422, nil, "POST", path+"/start", nil)
	if got := h.get(m.ID); got.State != "failed" || got.Events[0].Type != "start" || got.Events[0].Status != "failed" {
		t.Errorf("the machine: got %+v, want it failed, with an event of the failure", got)
	}
	h.wait(m.ID, "failed")
	h.wait(m.ID, "settled")
	h.want(200, nil, "POST", path+"/stop", nil)
	refused.Stop()
	h.want(200, nil, "POST", path+"/start", nil)
	h.wait(m.ID, "started")

	refused = h.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Unsupported))
	h.want(200, nil, "POST", path, `{"config":{"image":"app:2"}}`)
	h.wait(m.ID, "failed")
	refused.Stop()
	h.want(200, nil, "POST", path, `{"config":{"image":"app:3"}}`)
	h.wait(m.ID, "started")
	h.want(200, nil, "DELETE", path+"?force=true", nil)
}

func TestAStartWithoutRoomLeavesTheMachineStopped(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.reach("stopped")
	h.cloud.Fail(memmachine.Create, memmachine.Refuse(fault.Exhausted)).Times(1)
	if a := h.call("POST", machines+"/"+m.ID+"/start", nil); a.status != 409 {
		t.Errorf("got %d %s, want 409", a.status, a.body)
	}
	if got := h.get(m.ID); got.State != "stopped" || got.Events[0].Status != "failed" {
		t.Errorf("the machine: got %+v, want it stopped, with an event of the failure", got)
	}
	h.want(200, nil, "POST", machines+"/"+m.ID+"/start", nil)
	h.wait(m.ID, "started")
}

func TestThereIsALimitOfMachines(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *flyapi.Options) { o.MaxMachines = 2 })
	h.create(idle)
	m := h.create(idle)
	h.want(422, nil, "POST", machines, `{"config":{"image":"a"}}`)
	h.want(200, nil, "DELETE", machines+"/"+m.ID+"?force=true", nil)
	h.wait(m.ID, "destroyed")
	h.create(idle)
}

func TestWithoutATokenThatIsGoodEverythingIs401(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *flyapi.Options) {
		o.Authorize = func(r *http.Request) error {
			switch r.Header.Get("Authorization") {
			case "Bearer good":
				return nil
			case "Bearer narrow":
				return fault.Denied
			}
			return fault.Unauthenticated
		}
	})
	for header, want := range map[string]int{
		"": 401, "Bearer bad": 401, "good": 401, "Basic good": 401, "Bearer narrow": 403,
		"Bearer good": 200, "bearer good": 200, "FlyV1 good": 200, "Bearer FlyV1 good": 200,
	} {
		var headers []string
		if header != "" {
			headers = []string{"Authorization", header}
		}
		a := h.call("GET", "/v1/apps", nil, headers...)
		if a.status != want || want == 401 && a.text() != "Authenticate: token validation error" {
			t.Errorf("Authorization %q: got %d %s, want %d", header, a.status, a.body, want)
		}
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*flyapi.Options){
		"no provider":                func(o *flyapi.Options) { o.Provider = nil },
		"no ledger":                  func(o *flyapi.Options) { o.Ledger = "" },
		"too long a lifetime":        func(o *flyapi.Options) { o.Lifetime = 31 * 24 * time.Hour },
		"a region that is none":      func(o *flyapi.Options) { o.Regions = []string{"Amsterdam"} },
		"an app that cannot be":      func(o *flyapi.Options) { o.Apps = []string{"An App"} },
		"an image without a command": func(o *flyapi.Options) { o.Images = &flyapi.Images{Known: []flyapi.Image{{Pattern: "a"}}} },
		"an image in a relative place": func(o *flyapi.Options) {
			o.Images = &flyapi.Images{Known: []flyapi.Image{{Pattern: "a", Command: []string{"a"}, Dir: "b"}}}
		},
		"a class of room that is none":    func(o *flyapi.Options) { o.Quirks = &flyapi.Quirks{NoRoom: map[string]string{"ams": "shelf"}} },
		"a share that is more than all":   func(o *flyapi.Options) { o.Quirks = &flyapi.Quirks{TimeoutShare: 2} },
		"machines hidden for less than 0": func(o *flyapi.Options) { o.Quirks = &flyapi.Quirks{HiddenFor: -1} },
	} {
		o := flyapi.Options{Provider: memmachine.New(nil), Ledger: fmt.Sprintf("%s/machines.db", t.TempDir())}
		change(&o)
		s, err := flyapi.New(t.Context(), o)
		if fault.Of(err) != fault.Invalid {
			t.Errorf("%s: got %v, want an error of kind invalid", name, err)
		}
		if s != nil {
			_ = s.Close()
		}
	}
}
