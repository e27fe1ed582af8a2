package sqlite_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/store/sqlite"
)

// atSchema makes a database as a version of Dayfly left it that knew schemas up to n, and changes it by a statement.
func atSchema(t *testing.T, n int64, change string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "store.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	steps, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"),
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := steps.UpTo(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	mark := fmt.Sprintf("PRAGMA application_id = %d;", applicationID(t))
	if _, err := db.Exec(mark + change); err != nil {
		t.Fatal(err)
	}
	return path
}

// applicationID returns the number by which a database is known as Dayfly's.
func applicationID(t *testing.T) (id int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	submit(t, open(t, path, nil), 1)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("PRAGMA application_id").Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// schemaOf returns the statements that make a database's tables and indexes.
func schemaOf(t *testing.T, path string) (statements []string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT name || ': ' || coalesce(sql, '') FROM sqlite_master")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var statement string
		if err := rows.Scan(&statement); err != nil {
			t.Fatal(err)
		}
		statements = append(statements, statement)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(statements)
	return statements
}

func TestADatabaseOfEveryEarlierSchemaIsBroughtUpToDate(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(t.TempDir(), "store.db")
	submit(t, open(t, fresh, nil), 1)
	want := schemaOf(t, fresh)
	for n := range len(files) - 1 {
		t.Run(fmt.Sprint("schema ", n+1), func(t *testing.T) {
			t.Parallel()
			path := atSchema(t, int64(n+1), "")
			submit(t, open(t, path, nil), 1)
			if got := schemaOf(t, path); !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant that of a new database:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestADatabaseThatCannotBeBroughtUpToDateIsSaidInASentence(t *testing.T) {
	t.Parallel()
	path := atSchema(t, 4, "CREATE TABLE jobs_put_off (somebody TEXT)")
	_, err := sqlite.Open(t.Context(), path, nil)
	said, ok := fault.Sentence(err)
	if !ok || !strings.HasPrefix(said, "the database "+path+" cannot be brought from schema 4 to ") || !strings.Contains(said, "put a backup in its place") {
		t.Errorf("got %v, want a sentence that says what cannot be done and what to do", err)
	}
}
