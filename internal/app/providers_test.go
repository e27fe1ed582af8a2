package app_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/app"
)

// TestWhoeverNamesAProviderThatIsNotEnabledIsToldWhy asks a real server, and its configuration.
func TestWhoeverNamesAProviderThatIsNotEnabledIsToldWhy(t *testing.T) {
	t.Parallel()
	disabled := false
	for name, x := range map[string]struct {
		disable func(p *app.Providers) // which leaves others
		says    string
	}{
		"fly":    {func(p *app.Providers) { p.Fly.Enabled = false }, "providers.fly.enabled, app and token_file"},
		"docker": {func(p *app.Providers) { p.Docker.Enabled = &disabled }, "providers.docker.enabled is false"},
		"local": {func(p *app.Providers) {
			p.Local.Enabled = false
			enabled := true
			p.Docker.Enabled = &enabled
		}, "providers.local.enabled is false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := app.Default()
			c.DataDir, c.Listen = filepath.Join(t.TempDir(), "data"), []string{"127.0.0.1:0"}
			x.disable(&c.Providers)
			c.DefaultProvider = c.ProviderNames()[0]
			s, err := app.Start(t.Context(), c, &app.StartOptions{Embedded: true})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			defer func() {
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			client, err := dayfly.NewClient(s.LocalURL(), &dayfly.ClientOptions{Token: s.Token(), Patience: -1})
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}, Provider: name + ":somewhere"}, nil)
			wantAbsent(t, err, "provider", name+" cannot be used: ", x.says)

			c.DefaultProvider = name
			wantAbsent(t, c.Validate(), "default_provider", name+" cannot be used: ", x.says)
		})
	}
}

func wantAbsent(t *testing.T, err error, field string, says ...string) {
	t.Helper()
	wrong, ok := errors.AsType[*fault.FieldError](err)
	if !ok || wrong.Field != field || fault.Of(err) != fault.Invalid {
		t.Fatalf("got %v, want fault.Invalid for %s", err, field)
	}
	for _, text := range says {
		if !strings.Contains(wrong.Message, text) {
			t.Errorf("got %q, want it to say %q", wrong.Message, text)
		}
	}
}
