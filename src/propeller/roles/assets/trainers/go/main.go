// Your trainer: logistic regression by gradient descent, to begin with.
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand"
	"os"
	"strconv"
)

type model struct {
	W []float64 `json:"w"`
	B float64   `json:"b"`
}

type dataset struct {
	Rows []struct {
		X []float64 `json:"x"`
		Y float64   `json:"y"`
	} `json:"data"`
}

type update struct {
	RoundID   string             `json:"round_id"`
	PropletID string             `json:"proplet_id"`
	Base      string             `json:"base_model_uri"`
	Samples   int                `json:"num_samples"`
	Metrics   map[string]float64 `json:"metrics"`
	Update    *model             `json:"update,omitempty"`
}

func (m model) probability(x []float64) float64 {
	z := m.B
	for j := range m.W {
		z += m.W[j] * x[j]
	}
	return 1 / (1 + math.Exp(-z))
}

// epoch passes over the data once in a random order, with a step for every row.
func (m *model) epoch(d dataset, lr float64, chance *rand.Rand) {
	for _, i := range chance.Perm(len(d.Rows)) {
		row := d.Rows[i]
		e := m.probability(row.X) - row.Y
		for j := range m.W {
			m.W[j] -= lr * e * row.X[j]
		}
		m.B -= lr * e
	}
}

func (m model) loss(d dataset) (sum float64) {
	for _, row := range d.Rows {
		p := m.probability(row.X)
		if row.Y < 0.5 {
			p = 1 - p
		}
		sum -= math.Log(math.Max(p, 1e-300)) / float64(len(d.Rows))
	}
	return sum
}

// input reads a variable that must be there: a trainer never trains on anything made up.
func input(name string, into any) {
	if err := json.Unmarshal([]byte(os.Getenv(name)), into); err != nil {
		fail("%s: %v", name, err)
	}
}

func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", values...)
	os.Exit(1)
}

func main() {
	var m model
	var d dataset
	told := struct {
		Epochs int     `json:"epochs"`
		LR     float64 `json:"lr"`
	}{1, 0.01}
	input("MODEL_DATA", &m)
	input("DATASET_DATA", &d)
	if os.Getenv("HYPERPARAMS") != "" {
		input("HYPERPARAMS", &told)
	}
	for i, row := range d.Rows {
		if len(row.X) != len(m.W) {
			fail("row %d has %d features, the model has %d", i, len(row.X), len(m.W))
		}
	}
	if len(d.Rows) == 0 {
		fail("there are no rows to train on")
	}
	out := update{RoundID: os.Getenv("ROUND_ID"), PropletID: os.Getenv("PROPLET_ID"), Base: os.Getenv("MODEL_URI"), Samples: len(d.Rows)}
	if os.Getenv("FL_MODE") != "evaluate" {
		seed, _ := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
		chance := rand.New(rand.NewSource(int64(seed)))
		for i := 0; i < told.Epochs; i++ {
			m.epoch(d, told.LR, chance)
		}
		out.Update = &m
	}
	out.Metrics = map[string]float64{"loss": m.loss(d)}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fail("the update: %v", err)
	}
}
