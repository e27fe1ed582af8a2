package machine_test

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

func TestAnAmountIsReadDigitByDigit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]machine.Money{
		"0": 0, "0.50": 500_000, "5": 5_000_000, "0.000001": 1, "12.3456": 12_345_600, "1000000000": machine.MaxMoney, "00.10": 100_000,
	} {
		got, err := machine.ParseMoney(text)
		if err != nil || got != want {
			t.Errorf("ParseMoney(%q): got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "-1", "-0.5", "NaN", "Inf", "1e3", "0x10", ".5", "5.", "1,5", "$5", " 5", "0.0000001", "1000000001", "99999999999999999999", "1.2.3", "+1", "٣",
	} {
		got, err := machine.ParseMoney(text)
		if !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseMoney(%q): got %d, error %v; want %s", text, got, err, fault.Invalid)
		}
	}
}

func TestAnAmountInJSONIsAStringAndMayBeReadFromANumber(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]machine.Money{`"0.10"`: 100_000, `0.1`: 100_000, `3`: 3_000_000, ` "7" `: 7_000_000} {
		var got machine.Money
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("reading %s: got %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{`-1`, `1e2`, `"x"`, `true`, `null0`, `0.0000001`, `[1]`} {
		var got machine.Money
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("reading %s: got %d, want an error", text, got)
		}
	}
	got, err := json.Marshal(map[string]machine.Money{"a": 1, "b": 1_500_000})
	if want := `{"a":"0.000001","b":"1.50"}`; err != nil || string(got) != want {
		t.Errorf("writing: got %s, %v; want %s", got, err, want)
	}
}

func TestWhatAnAmountWritesIsReadAsTheSameAmount(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := machine.Money(rapid.Int64Range(0, int64(machine.MaxMoney)).Draw(t, "amount"))
		got, err := machine.ParseMoney(want.String())
		if err != nil || got != want {
			t.Fatalf("%d was written as %q and read as %d, %v", want, want, got, err)
		}
		rate := machine.Rate(rapid.Int64Range(0, int64(machine.MaxRate)).Draw(t, "rate"))
		var read machine.Rate
		if err := read.UnmarshalText([]byte(rate.String())); err != nil || read != rate {
			t.Fatalf("%d was written as %q and read as %d, %v", rate, rate, read, err)
		}
	})
	if got, want := machine.Money(math.MinInt64).String(), "-9223372036854.775808"; got != want {
		t.Errorf("the lowest amount: got %s, want %s", got, want)
	}
}

func TestARateIsRefusedLikeAnAmount(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "-1", "NaN", "0.0000000001", "1000001", "x"} {
		var rate machine.Rate
		if err := rate.UnmarshalText([]byte(text)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: got %d, error %v; want %s", text, rate, err, fault.Invalid)
		}
	}
}
