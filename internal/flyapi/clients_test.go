package flyapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
)

// asked is a cloud that remembers what it was asked for.
type asked struct {
	mu    sync.Mutex
	specs []machine.Spec
}

func (a *asked) guest(ctx context.Context, spec *machine.Spec) machine.Exit {
	a.mu.Lock()
	a.specs = append(a.specs, *spec)
	a.mu.Unlock()
	<-ctx.Done()
	return machine.Exit{Code: -1, Signal: "SIGKILL"}
}

func (a *asked) last() machine.Spec {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.specs[len(a.specs)-1]
}

// The bodies are those that clients send, byte by byte where it matters: what they leave out, what they send as null, and
// what they send though it says nothing.
func TestTheBodiesThatKnownClientsSendAreUnderstood(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, body string
		check      func(t *testing.T, m *shown, spec *machine.Spec)
	}{
		{"the audio API with the Python SDK", `{"name":"5f0c36b4-5f0e-4c3c-9a6c-0d4b7b0f8a11","config":{"env":{"API_URL":"http://audio.flycast","JOB_ID":"5f0c"},` +
			`"image":"registry.fly.io/worker:deployment-01","restart":{"policy":"no"},"auto_destroy":true,"size":"performance-2x"}}`,
			func(t *testing.T, m *shown, spec *machine.Spec) {
				for _, part := range []string{"registry", "repository", "tag", "digest"} {
					if _, ok := m.ImageRef[part].(string); !ok {
						t.Errorf("image_ref.%s: got %v, want a text: the SDK refuses the machine otherwise", part, m.ImageRef[part])
					}
				}
				if m.ImageRef["tag"] != "deployment-01" || m.ImageRef["registry"] != "registry.fly.io" || m.ImageRef["repository"] != "worker" {
					t.Errorf("image_ref: got %v", m.ImageRef)
				}
				if spec.Size.CPUs != 2 || spec.Size.MemoryMB != 4096 || spec.Env["JOB_ID"] != "5f0c" {
					t.Errorf("the launch: got %+v, want two CPUs, 4096 MiB and the environment", spec)
				}
			}},
		{"an image of a digest alone", `{"config":{"image":"worker@sha256:0000000000000000000000000000000000000000000000000000000000000000"}}`,
			func(t *testing.T, m *shown, _ *machine.Spec) {
				if _, ok := m.ImageRef["tag"].(string); !ok || m.ImageRef["repository"] != "library/worker" {
					t.Errorf("image_ref: got %v, want a tag that is a text", m.ImageRef)
				}
			}},
		{"lambdo", `{"region":"bos","config":{"image":"app","guest":{"cpus":0,"memory_mb":0,"cpu_kind":""},"size":"performance-2x",` +
			`"env":{"EVENTS_PATH":"/tmp/events.json"},"processes":[{"cmd":["php","artisan","foo"]}],` +
			`"files":[{"guest_path":"/tmp/events.json","raw_value":"W3siYSI6MX1d"}],"auto_destroy":true}}`,
			func(t *testing.T, m *shown, spec *machine.Spec) {
				if m.Region != "bos" || m.Config["restart"].(map[string]any)["policy"] != "on-failure" {
					t.Errorf("the machine: got %+v, want it in bos with the policy on-failure", m)
				}
				if fmt.Sprint(spec.Command) != "[php artisan foo]" || spec.Entrypoint != nil || spec.Size.MemoryMB != 4096 {
					t.Errorf("the launch: got %+v, want the command for the image's own entrypoint", spec)
				}
				if len(spec.Files) != 1 || spec.Files[0].Path != "/tmp/events.json" || string(spec.Files[0].Data) != `[{"a":1}]` {
					t.Errorf("the files: got %+v", spec.Files)
				}
			}},
		{"Python workers", `{"name":"task-1","region":"ams","config":{"image":"worker","env":{"REDIS_TASK_INFO_KEY":"tasks:1"},` +
			`"processes":[{"name":"worker","entrypoint":["python"],"cmd":["worker.py"]}]}}`,
			func(t *testing.T, m *shown, spec *machine.Spec) {
				if fmt.Sprint(spec.Entrypoint, spec.Command) != "[python] [worker.py]" || spec.Size.MemoryMB != 256 || spec.Size.CPUs != 1 {
					t.Errorf("the launch: got %+v, want python worker.py on the smallest size", spec)
				}
				if m.Config["processes"].([]any)[0].(map[string]any)["name"] != "worker" {
					t.Errorf("the configuration: got %v, want the name that nobody knows shown again", m.Config)
				}
			}},
		{"FLAME", `{"name":"app-flame-0123456789abcdef0123","region":"ams","config":{"image":"registry.fly.io/app:1","init":{},` +
			`"guest":{"cpu_kind":"performance","cpus":2,"memory_mb":4096,"gpu_kind":null,"gpus":null},"auto_destroy":true,"restart":{"policy":"no"},` +
			`"env":{"PHX_SERVER":"false","FLAME_PARENT":"g3QA"},"services":[],"metadata":{"flame_parent_ip":"fdaa::1"}}}`,
			func(t *testing.T, m *shown, spec *machine.Spec) {
				if m.ID == "" || m.InstanceID == "" || m.PrivateIP == "" {
					t.Errorf("the machine: got %+v, want id, instance_id and private_ip", m)
				}
				if spec.Size.GPU != "" || spec.Size.CPUs != 2 || spec.Env["FLY_PRIVATE_IP"] != m.PrivateIP {
					t.Errorf("the launch: got %+v", spec)
				}
			}},
		{"flyctl and the fly-go library", `{"name":"","config":{"init":{"exec":["/bin/app","run"],"entrypoint":["x"],"cmd":["y"]},"image":"a","stop_config":{"timeout":30000000000,"signal":"SIGTERM"},` +
			`"services":[{"protocol":"tcp","internal_port":8080,"autostop":"stop","autostart":true,"ports":[{"port":443,"handlers":["tls"]}]},{"autostop":"off"}],` +
			`"checks":{"http":{"type":"http","port":8080,"interval":"15s"}},"mounts":[{"volume":"vol_1","path":"/data"}],"dns":{"skip_registration":true},"future":{"field":[1]}},"lease_ttl":13,"skip_service_registration":true}`,
			func(t *testing.T, m *shown, spec *machine.Spec) {
				if fmt.Sprint(spec.Entrypoint, spec.Command) != "[/bin/app] [run]" {
					t.Errorf("the launch: got %v %v, want what exec says", spec.Entrypoint, spec.Command)
				}
				services := m.Config["services"].([]any)
				if services[0].(map[string]any)["autostop"] != true || services[1].(map[string]any)["autostop"] != false {
					t.Errorf("services: got %v, want autostop as true and false", services)
				}
				if m.Config["future"] == nil || m.Config["dns"] == nil || m.Nonce == "" || m.Name == "" {
					t.Errorf("the machine: got %+v, want a name, a nonce and every field shown again", m)
				}
			}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var cloud asked
			h := openOn(t, &memmachine.Options{Guest: cloud.guest}, false, nil)
			m := &shown{}
			h.want(200, m, "POST", machines, c.body, "Authorization", "Bearer fm2_token", "Content-Type", "application/json; charset=UTF-8")
			h.wait(m.ID, "started")
			spec := cloud.last()
			c.check(t, m, &spec)
			for _, name := range []string{"FLY_APP_NAME", "FLY_MACHINE_ID", "FLY_ALLOC_ID", "FLY_REGION", "FLY_PUBLIC_IP", "FLY_PRIVATE_IP",
				"FLY_IMAGE_REF", "FLY_MACHINE_VERSION", "FLY_PROCESS_GROUP", "FLY_VM_MEMORY_MB", "PRIMARY_REGION"} {
				if spec.Env[name] == "" {
					t.Errorf("the environment has no %s", name)
				}
			}
			if spec.Env["FLY_APP_NAME"] != "app" || spec.Env["FLY_MACHINE_ID"] != m.ID || spec.Env["FLY_REGION"] != m.Region || spec.Lifetime != machine.MaxLifetime {
				t.Errorf("the launch: got %+v", spec)
			}
			// A client takes what it was shown, changes it and sends it back.
			update := map[string]any{"config": h.get(m.ID).Config}
			h.want(200, nil, "POST", machines+"/"+m.ID, update, "fly-machine-lease-nonce", m.Nonce)
		})
	}
}

func TestStatesThatClientsReadArePassedInOrder(t *testing.T) {
	t.Parallel()
	h := openOn(t, &memmachine.Options{Boot: 50 * time.Millisecond}, false, nil)
	m := h.create(idle)
	seen := []string{m.State}
	h.eventually("it is started", func() bool {
		state := h.get(m.ID).State
		if state != seen[len(seen)-1] {
			seen = append(seen, state)
		}
		return state == "started"
	})
	if fmt.Sprint(seen) != "[created started]" {
		t.Errorf("states: got %v, want created and started, both of which mean that it is under way", seen)
	}
}

func TestANullIsNothing(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	m := h.create(`{"image":"a","env":null,"guest":null,"init":null,"files":null,"processes":null,"restart":null,"metadata":null,"services":null,"auto_destroy":null,"stop_config":null}`)
	for key, value := range m.Config {
		if value == nil {
			text, _ := json.Marshal(m.Config)
			t.Errorf("config.%s is shown as null in %s, want it left out", key, text)
		}
	}
}
