"""Every bound in the system, by name, with its unit and its reason. Units come last in the name.

A limit here is a default unless the name says `_max`; a `_max` is never exceeded whatever is configured.
"""

# Names
ID_CHARS_MAX = 63
"""Length of an id: fits a DNS label, a file name and one MQTT topic level."""

# HTTP
HTTP_BODY_BYTES_MAX = 100 * 1024 * 1024
"""Largest request body on any route, as the original allows (100 MiB)."""
HTTP_JSON_OFFLOAD_BYTES = 1024 * 1024
"""Bodies over this are decoded in a worker thread, so that no loop stalls for 50 ms."""
HTTP_HEAD_BYTES_MAX = 64 * 1024
"""Request line and headers together: far above every real client, far below a memory problem."""
HTTP_STALL_S = 15.0
"""A connection is closed when a request head takes longer than this, or a body brings nothing for so long."""
HTTP_TIMEOUT_S = 30.0
"""One request to another role, connection included."""
HTTP_STREAM_S = 600.0
"""One exchange with another role whose body is a file: four gigabytes at 7 MB/s."""
HTTP_KEEPALIVE_S = 60
"""Idle connections are closed after this."""
LIST_OFFSET_MAX = (1 << 53) - 1
"""Where a page may begin: the largest integer that every JSON reader keeps exact."""
LIST_PAGE_DEFAULT = 100
LIST_PAGE_MAX = 100
"""Rows of one page of `GET /tasks` and the other lists."""
LIST_RESULT_BYTES_MAX = 16 * 1024
"""Results that a list shows; longer ones are a request of their own, or a page could be 50 MB."""
JSON_DEPTH_MAX = 64
"""Levels of any JSON or CBOR that is accepted: far above every real message, far below the parser's stack."""

# MQTT
MQTT_MESSAGE_BYTES_MAX = 1024 * 1024
"""Largest message we send or accept: what the original's broker allows (1 MiB)."""
MQTT_KEEPALIVE_S = 30
MQTT_CONNECT_S = 10.0
"""A new connection is closed if its CONNECT has not arrived whole within this."""
MQTT_PUBLISH_S = 10.0
"""How long a publish waits for the broker's acknowledgement before it counts as not handed over."""
MQTT_KEEPALIVE_FACTOR = 1.5
"""A client is gone after this many silent keep-alive intervals (MQTT 3.1.1, 3.1.2.10)."""
MQTT_OUTBOX_BYTES_MAX = 16 * 1024 * 1024
"""What the embedded broker holds for one client that does not read; beyond it messages are dropped."""
MQTT_CONNECTIONS_MAX = 2_000
"""Connections that the embedded broker holds; a larger fleet wants Mosquitto."""
MOSQUITTO_CONNECTIONS_MAX = 100_000
"""Connections that Mosquitto is configured to hold; how many it can is up to its limit of open files."""
MQTT_SUBSCRIPTIONS_MAX = 64
"""Subscriptions of one client on the embedded broker: ours need at most five."""
MQTT_RETAINED_MESSAGES_MAX = 10_000
"""Topics that hold a retained message; further ones are delivered and not kept."""
API_KEY_CHARS_MAX = 256
MQTT_RECONNECT_BASE_S = 0.2
MQTT_RECONNECT_MAX_S = 4.0
"""Full-jitter backoff: uniform in [0, min(max, base * 2**n)]."""
MQTT_INBOX_MESSAGES_MAX = 20_000
"""Undecoded messages a role holds; beyond it the oldest heartbeat-like ones are dropped and counted."""

# What proplets say
PROPLETS_MAX = 100_000
"""Proplets that a manager knows. On the shared topics anybody may invent ids, and every one is a record."""
PROPLET_CREATE_BYTES_MAX = 64 * 1024
"""One announcement: it is kept with the proplet, and shown in every list."""
PROPLET_ALIVE_BYTES_MAX = 256 * 1024
"""One heartbeat: the inventory of a thousand attempts."""
PROPLET_ERROR_CHARS_MAX = 4096
"""What is kept of a proplet's word for what went wrong; it is stored, logged and listed with the run."""

# Liveness
HEARTBEAT_S = 10.0
"""Default interval between a proplet's heartbeats."""
HEARTBEATS_MISSED_MAX = 3
"""A proplet is alive if its last heartbeat is within this many intervals."""

PROPLET_METRICS_S = 10.0
"""Default interval between a proplet's host metrics."""

# Tasks
TASK_NAME_CHARS_MAX = 256
TASK_FILE_BYTES_MAX = 100 * 1024 * 1024
TASK_METADATA_BYTES_MAX = 1024 * 1024
TASK_ENV_BYTES_MAX = 256 * 1024
"""All names and values of a task's environment; large things travel as blobs."""
TASK_INPUTS_MAX = 1024
TASK_RESULT_BYTES_MAX = 512 * 1024
"""A result stored with a run; a longer stdout is cut by the guest's output limit first."""
TASK_LOG_BYTES = 2 * 1024 * 1024
TASK_LOGS_BYTES_MAX = 256 * 1024 * 1024
"""What the manager keeps of the logs of one task, and of all together; the oldest goes first."""
ENDLESS_S = 100 * 365 * 86_400.0
"""The wall limit of a service or a latent task: none to speak of, yet a number that every store takes."""
RUN_WAIT_S = 600.0
"""How long an accepted run waits for a proplet before it fails."""
IMAGE_CACHE_BYTES = 1024 * 1024 * 1024
"""What a machine's proplets keep of images together; the longest unused go first."""
IMAGE_CHUNK_BYTES = 512_000
"""A module's piece in one MQTT message, as the original's proxy cuts them; base64 makes it a third more."""
IMAGE_WISH_S = 2.0
"""A wish for a module that brought nothing at all for so long is said again: it may have been lost."""
IMAGE_QUIET_S = 10.0
"""The same once pieces came: on a slow line one takes its time, and a wish brings all of them again."""
IMAGE_WISHES_MAX = 5
"""So many wishes in a row that brought nothing, and a module cannot be had now."""
IMAGE_PIN_S = 5.0
"""How long a registry may take to say what a tag means, and how often it is asked again."""
RUN_DISPATCH_S = 60.0
"""How long a start may stay unacknowledged by a proplet that is alive before the attempt counts as lost."""
DISPATCH_RETRY_S = 2.0
"""A start that was not accepted is sent again after this; each further pause doubles, to 30 s."""
DISPATCH_RETRY_S_MAX = 30.0
ATTEMPT_GRACE_S = 15.0
"""Added to a task's wall limit before the manager gives up on a running attempt's report."""
ATTEMPT_LOST_S = 30.0
"""How long a proplet may be gone before its running attempt counts as lost (standard tasks)."""
STOP_GRACE_S = 10.0
"""How long a stop may stay unanswered before the run is closed without the proplet's word."""
ATTEMPTS_MAX = 3
"""Attempts of one run (the first and its replacements)."""
TASK_CONSTRAINTS_MAX = 64
"""Conditions, and as many preferences, that one task puts on its proplet."""
CONSTRAINT_VALUE_CHARS_MAX = 1024
LABELS_MAX = 64
LABEL_CHARS_MAX = 63
"""Labels of one proplet, and the length of a label's name and of its value."""
AFFINITY_WEIGHT_MAX = 100.0
FLOW_TASKS_MAX = 10_000
FLOW_EDGES_MAX = 100_000
"""Tasks and dependencies of one workflow or job: judged again after every change, in tens of milliseconds."""
PARENT_RESULTS_BYTES_MAX = 512 * 1024
"""Results of its dependencies that a start message carries: half of the largest message."""
POLICY_ATTEMPTS_MAX = 1000
POLICY_DELAY_S_MAX = 86_400.0
"""Further attempts that a task's policies may ask for, and the longest pause before one."""
RESCHEDULE_ATTEMPTS = 2
"""Replacements of a lost attempt, unless the task says otherwise."""
DAEMON_DELAY_S = 1.0
DAEMON_DELAY_S_MAX = 300.0
"""A daemon that ended begins again after this pause, doubled each time up to the second."""
REPLICAS_MAX = 1000
"""Replicas of one service: all of them are looked at whenever one changes."""
SERVICE_LOOK_S = 1.0
"""How often a service is looked at while a rollout is under way, as silence is no event."""
SCALE_S = 5.0
"""How often a scaling rule is given its figure."""
REPLICA_METRICS_S = 15.0
REPLICA_METRICS_FRESH_S = 60.0
"""How often a replica's guest is measured, and how old a figure may be that its rule goes by."""
CPU_PERCENT_MAX = 102_400.0
"""The processor time that one replica is believed to take, in percent of a core: a thousand cores."""
SCALE_TARGET_MIN = 0.01
SCALE_TARGET_MAX = 1_000_000.0
ATTEMPTS_KEPT = 16
"""Attempts that a run remembers; older ones are in the task's event history."""
TASK_EVENTS_KEPT = 256
"""Events of one task's history; the oldest go first."""
METRICS_BYTES_MAX = 16 * 1024
"""One measurement, of which a proplet and a task keep `METRICS_KEPT`: far above what any proplet says."""
METRICS_KEPT = 1000
"""Measurements of one proplet or one task; the oldest go first."""
METRICS_INBOX_MAX = 10_000
METRICS_FLUSH_S = 1.0
"""Measurements wait at most so long and at most so many for a transaction of theirs; more are dropped."""
CRON_TICK_S = 30.0
"""Schedules are looked at least this often: the wall clock may jump while nobody looks."""
CRON_CLOCK_SET_BACK_S = 3 * 3600.0
"""A clock set back by less repeats no schedule; by more, the new time counts (as in Debian's cron)."""

# Guests
GUEST_WALL_S = 300.0
GUEST_WALL_S_MAX = 86_400.0
GUEST_CPU_S = 300.0
GUEST_MEMORY_BYTES = 256 * 1024 * 1024
GUEST_MEMORY_BYTES_MAX = 4 * 1024 * 1024 * 1024
GUEST_STACK_BYTES = 1024 * 1024
GUEST_STACK_BYTES_MAX = 64 * 1024 * 1024
"""The stack is a thread's own, reserved at its start; no compiler we know of needs more."""
GUEST_TABLE_ELEMENTS = 1_000_000
GUEST_INSTANCES = 40
"""Instances of one guest: a component that holds Python has two dozen."""
GUEST_STDOUT_BYTES = 1024 * 1024
GUEST_STDERR_BYTES = 256 * 1024
GUEST_MODULE_BYTES_MAX = 100 * 1024 * 1024
GUEST_COMPILE_S = 60.0
"""Compilation of one module; a compile bomb is stopped with the worker."""
GUEST_COMPILE_BYTES = 2 * 1024 * 1024 * 1024
"""Resident memory of a worker while it compiles; a 100 MiB module of ordinary code stays far below."""
GUEST_HOST_BYTES = 256 * 1024 * 1024
"""Resident memory that a running guest may cost its worker beyond its linear memory: tables, code, copies."""
GUEST_PRINT_BYTES_MAX = 64 * 1024
"""What a worker tells of one stream at once, up to twenty times a second; a faster guest's log has gaps."""
GUEST_RESULT_BYTES_MAX = 100 * 1024 * 1024
"""What one `put_result` may hand over: as much as an update may weigh."""
GUEST_FILE_BYTES_MAX = 1024 * 1024 * 1024
"""Largest file that a worker, and so a guest under `/fl`, may write."""
GUEST_CACHE_BYTES = 1024 * 1024 * 1024
"""Compiled modules kept on disk; the longest unused go first."""
WORKER_MODULES = 4
"""Compiled modules that a worker keeps loaded: their pages are shared with every other worker's."""
WORKER_START_S = 30.0
"""A worker that is not ready by then is taken for broken; it needs 0.2 s on an idle machine."""
WORKER_GROWTH_BYTES = 10 * 1024 * 1024
"""A worker whose own memory grew more than this since its start is replaced after its job."""
WORKER_FRAME_BYTES_MAX = 512 * 1024 * 1024
"""One message between the agent and a worker: a model and a data set as text, with room."""
WORKER_IDLE_S = 30.0
"""An idle worker process is retired after this."""
WORKER_SLACK_S = 0.25
"""A guest that ignores its soft deadline is killed at most this long after it."""

# Federated learning
ROUND_TIMEOUT_S = 60.0
ROUND_TIMEOUT_S_MAX = 30 * 86_400.0
ROUNDS_MAX = 10_000
PARTICIPANTS_MAX = 10_000
OVER_SAMPLING_MAX = 10.0
"""Participants asked for each update that is wanted."""
ROUND_FAILURES = 2
"""Failed rounds in a row that an experiment of several rounds outlives, unless it says otherwise."""
ROUND_REFUSALS_MAX = 100
"""Refused updates of a round that are kept with sender and reason; beyond it they are only counted."""
REASON_CHARS_MAX = 500
"""A reason that is shown and sent on; the whole story is in the log of whoever had it."""
STALENESS_MAX = 16
"""Versions that a late update may be behind, unless its experiment says less."""
UPDATE_BYTES_MAX = 100 * 1024 * 1024
UPDATE_SAMPLES_MAX = 1_000_000_000
"""One participant's weight: larger is a mistake or an attack."""
UPDATE_ABS_MAX = 1e12
"""Largest absolute value of one parameter of an update; keeps every weighted sum finite."""
UPDATE_NORM_MAX = 1e15
"""L2 norm of an update over all its tensors."""
UPDATE_METRICS_MAX = 64
"""Scalar metrics of one update."""
TENSORS_MAX = 10_000
TENSOR_NAME_CHARS_MAX = 128
TENSOR_DIMS_MAX = 8
TENSOR_HEADER_BYTES_MAX = 8 * 1024 * 1024
"""Header of a safetensors file: ten thousand tensors of long names take 3 MiB."""
MODEL_FILE_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""The safetensors file of a model, of a strategy's state or of an update."""
MODEL_LINE_BYTES_MAX = 2 * 1024 * 1024
"""What is said of a model that comes as files: ten thousand participants' ids, and the strategy's JSON."""
MODEL_BY_REFERENCE_BYTES = 1024 * 1024
"""Models over this are aggregated from files; below it, JSON in one request is easier to watch."""
TENSORS_JSON_ELEMENTS_MAX = HTTP_BODY_BYTES_MAX // 2
"""Numbers in one JSON or CBOR model: a body's worth at two bytes each. CBOR can name one list many times."""
HYPERPARAMS_BYTES_MAX = 64 * 1024
"""Hyperparameters as compact JSON: they travel in each task's environment."""
IMAGE_REFERENCE_CHARS_MAX = 2048
"""An image reference or URL as an experiment names it: it is part of every round's start message."""
ROUND_LAUNCH_S = 600.0
"""How long a later round of an experiment waits for the manager to create its tasks."""
ROUND_TASK_GRACE_S = 10.0
"""How long a round's task outlives the round's own timeout: it is ended by the round, not beside it."""
ROUND_MANUAL_TIMEOUT_S = 600.0
"""A round that a task started by hand opened: an image to pull and a guest to run, with room."""
ROUND_RESTART_GRACE_S = 30.0
"""A collecting round has at least this long after a restart, for updates that found nobody before."""
ROUND_AGGREGATION_S = 600.0
"""How long a round tries to aggregate and to store its model before it fails."""
ROUND_AGGREGATION_RETRY_S = 1.0
ROUND_AGGREGATION_RETRY_S_MAX = 15.0
ROUND_NOTICE_RETRY_S = 1.0
ROUND_NOTICE_RETRY_S_MAX = 15.0
"""A round's start and end are published again until acknowledged, after pauses that double between these."""
ROUND_NOTICE_S = 86_400.0
"""An end that no manager acknowledged is no longer published after a day; it can still be asked for."""
UPDATE_INBOX_MAX = 256
"""Updates that came by MQTT and wait for their verdict; more are dropped, and their senders try again."""
UPDATE_AGAIN_S = 1.0
UPDATE_AGAIN_TRIES_MAX = 8
"""An update of a device that cannot be told to send again is tried so often, after pauses that double: for
four minutes, in which a registry or a disk comes back."""
COORDINATOR_BATCH_MAX = 256
"""Events that share one transaction."""
COORDINATOR_INBOX_MAX = 4096
"""Events that wait for a transaction; beyond it callers wait in line."""
MODEL_VERSION_MAX = (1 << 53) - 1
"""Largest number of a model version: the largest integer that every JSON reader keeps exact."""
MODEL_RECORD_BYTES_MAX = 256 * 1024
"""What a model version says about its making: the strategy's JSON, as text."""
MODEL_TOPIC_BYTES_MAX = 256 * 1024
"""A model up to this is retained on its topic as JSON; of a larger one there is a manifest."""
MODEL_CHUNK_BYTES = 512_000
"""A piece of a large model in one message, as of modules."""
MODEL_TOPICS_KEPT = 16
"""Versions of one model that stay retained; older ones go when a new one is announced."""
UPDATE_PIECE_BYTES = 512_000
"""A piece of an update that is too large for a message, as of models."""
UPDATE_PIECES_MAX = 10_000
"""Pieces of one update: their manifest must fit into a message."""
UPDATE_PIECES_WANTED = 4
UPDATE_PIECES_WANTED_MAX = 16
"""Pieces that a coordinator asks of one update, and of all, before it has them: half of what the embedded
broker holds for it. Who is not asked yet announces its update again."""
UPDATE_PIECES_WAIT_S = 10.0
"""Pieces that were asked for and have not come after this are no longer waited for."""
UPDATE_PIECES_INBOX_MAX = 32
"""Pieces and manifests that wait to be taken; more are dropped, and asked for or said again."""
UPDATES_IN_PIECES_MAX = 1024
"""Updates that come in pieces at a time; the one that was silent longest is announced anew."""
UPDATE_PIECES_SWEEP_S = 600.0
"""How often pieces are looked for that belong to no update: those found twice go."""
MODEL_WISHES_MAX = 1024
"""Wishes for pieces of models that wait; more are dropped, and their senders ask again."""
MODEL_TEXT_BYTES_MAX = 8 * 1024 * 1024
"""A larger model goes to a trainer as a file: as JSON in its environment it would be three times the size."""
DOWNLOAD_MEMORY_BYTES = 1024 * 1024
"""What of a download is held in memory; a longer one goes on in a file."""
TRAINER_STATES_MAX = 64
"""Client states that a proplet keeps, one for each experiment and trainer."""
MODEL_CACHE_BYTES = 64 * 1024 * 1024
"""Rendered model versions that a registry keeps in memory: every participant of a round asks for the same."""
DATASET_TEST_SHARE = 0.2
"""Part of a data set's rows that `?part=test` answers."""
DATASET_SEED_ROWS = 64
"""Rows of a synthetic data set, as in the original's demo."""
MODULES_RECENT_BYTES = 4 * 1024 * 1024
"""Modules that a cache keeps in memory, so that what runs again asks neither network nor disk for them."""
OFFLOAD_INLINE_BYTES = 256 * 1024
"""Reading or printing less than this as JSON takes some two milliseconds, and stays on the loop."""
OFFLOAD_PROCESS_BYTES = 1024 * 1024
"""JSON over this goes to a worker process: a thread would hold the interpreter lock for tens of ms."""
OFFLOAD_ANSWER_BYTES_MAX = 1024 * 1024 * 1024
"""Largest answer a role accepts from its own worker process: anything longer is a broken frame."""
FETCH_S = 60.0
"""How long an attempt asks again for its module, model and data set while nobody answers. A service that was
restarted is back by then; a wrong address will never be right, and the proplet's slot is wanted by others."""
UPDATE_RETRY_S = 1.0
UPDATE_RETRY_S_MAX = 15.0

# Images
OCI_MANIFEST_BYTES_MAX = 4 * 1024 * 1024
"""What the distribution specification asks a registry to accept."""
OCI_REPOSITORY_CHARS_MAX = 200
"""Length of a repository name: it is also the name of a file, with room for a suffix in 255 bytes."""
OCI_BLOB_BYTES_MAX = 4 * 1024 * 1024 * 1024
"""Largest blob the embedded registry stores; uploads are streamed, so this bounds disk and not memory."""
OCI_UPLOADS_MAX = 256
"""Upload sessions open at once in the embedded registry; each holds a temporary file."""
OCI_UPLOAD_IDLE_S = 3600.0
"""An upload session that received nothing for this long is dropped with its bytes."""
OCI_BLOB_GRACE_S = 3600.0
"""A blob that no manifest is made of is kept so long after it was pushed or asked for: its push goes on."""
OCI_CHUNK_BYTES = 1024 * 1024
"""How much of a blob the embedded registry reads or buffers at once."""
OCI_PAGE_DEFAULT = 1000
"""Tags or repositories of one page when the caller names no number; also the most of one page."""
OCI_REDIRECTS_MAX = 5
"""Redirects that one request of the image client follows: registries redirect blobs to object stores once."""
OCI_INDEX_CHILDREN_MAX = 32
"""Manifests of an image index that the client looks into for a Wasm layer."""
OCI_BLOB_TIMEOUT_S = 300.0
"""One blob or module, whole: 100 MiB over a link of 3 Mbit/s."""
OCI_TOKENS_MAX = 1000
"""Bearer tokens the image client remembers; beyond it all are forgotten and asked for anew."""
MODEL_HOLD_S = 60.0
"""From holding its base model to being stored an experiment may take this long; it takes milliseconds."""
PUBLISH_RETRY_S_MAX = 60.0
"""Longest pause before a model version that could not be pushed is tried again."""
OCI_TAG_PAGES_MAX = 100
"""Pages of a tag list that the client reads."""

# Storage
BLOB_INLINE_BYTES_MAX = 64 * 1024
"""Content up to this lives in its database row; larger content is a file of the blob store."""
BLOB_IDLE_S = 3600.0
"""Content that nothing refers to is kept so long after it was stored: a record may be about to name it."""
STORAGE_RETRY_S = 1.0
"""Pause before a role whose disk failed reads again what it holds; meanwhile it decides nothing."""
EVENT_LOOP_LAG_S_MAX = 0.050
"""No call may hold an event loop longer."""

# Logs
LOG_FILE_BYTES_MAX = 32 * 1024 * 1024
"""One role's log file; one older file of this size is kept beside it."""

# Processes
ROLE_DESCRIPTORS_MIN = 48
"""File descriptors that one role alone needs before the first client comes."""
UP_DESCRIPTORS_MIN = 128
"""File descriptors that all services in one process need, with a few proplets; measured: 63 with three."""
