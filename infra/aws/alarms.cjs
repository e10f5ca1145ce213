// Every alarm as one table row: what is watched, when a person is called, what that person does.
// Missing data is `breaching` only where silence itself is the fault.
const functions = { Jobs: "jobs", Status: "status", Worker: "worker", Health: "health" };

const minutes = (count) => ({ Period: 60, EvaluationPeriods: count });

/** Thresholds that depend on the stage come in as `p`; names of metrics of our own are in README. */
function rows(p) {
  const lambda = (name, metric) => ({
    Namespace: "AWS/Lambda",
    MetricName: metric,
    Dimensions: [{ Name: "FunctionName", Value: { Ref: `${name}LambdaFunction` } }],
  });
  const queue = (logicalId) => ({
    Namespace: "AWS/SQS",
    MetricName: "ApproximateNumberOfMessagesVisible",
    Dimensions: [{ Name: "QueueName", Value: { "Fn::GetAtt": [logicalId, "QueueName"] } }],
  });
  const api = (metric) => ({
    Namespace: "AWS/ApiGateway",
    MetricName: metric,
    Dimensions: [{ Name: "ApiId", Value: { Ref: "HttpApi" } }],
  });
  const schedule = (metric) => ({
    Namespace: "AWS/Scheduler",
    MetricName: metric,
    Dimensions: [{ Name: "ScheduleGroup", Value: `minutehand-${p.stage}` }],
  });
  const own = (metric) => ({
    Namespace: "Minutehand",
    MetricName: metric,
    Dimensions: [{ Name: "stage", Value: p.stage }],
  });

  // CloudFormation compares templates, not the account: what a hand changed, a deploy leaves alone
  const drift =
    `\`aws cloudformation detect-stack-drift --stack-name minutehand-${p.stage}\` and then ` +
    "describe-stack-resource-drifts name what was changed manually. Undo it manually too: a deploy touches only what the template changes.";

  const perFunction = Object.entries(functions).flatMap(([name, short]) => [
    {
      id: `${name}Errors`,
      ...lambda(name, "Errors"),
      Statistic: "Sum",
      ...minutes(5),
      datapoints: 2,
      over: 0,
      runbook:
        `Open /aws/lambda/minutehand-${p.stage}-${short}, filter level=ERROR; group by "message". ` +
        "Import errors right after a deploy: roll back with `minutehand deploy <stage> --rollback <timestamp>`. " +
        "QueueUnavailable: check Supabase's status page and the database's connections.",
    },
    {
      id: `${name}Throttles`,
      ...lambda(name, "Throttles"),
      Statistic: "Sum",
      ...minutes(name === "Worker" ? 15 : 5),
      over: 0,
      runbook:
        name === "Worker"
          ? "A few are normal: reserved concurrency caps the database's load. For minutes on end: jobs arrive faster " +
            "than they run; read OldestDueSeconds, then raise workersAtOnce in stages.yml."
          : "The account's concurrency is used up. Look for a runaway function in the console's concurrency graph; " +
            "ask AWS for a higher quota, or reserve concurrency for this function.",
    },
    {
      id: `${name}NearTimeout`,
      ...lambda(name, "Duration"),
      Statistic: "Maximum",
      ...minutes(5),
      datapoints: 2,
      over: p.nearTimeout[short],
      runbook:
        name === "Worker"
          ? "A tick did not stop in time, so Lambda is about to kill it: look for `Processor ignored its cancellation` in its log. " +
            "The lease will expire and the job runs again; give that type a timeout."
          : "Look at the slow calls in X-Ray; a slow Data API shows as one long subsegment. Check the database's load first.",
    },
  ]);

  return [
    ...perFunction,
    {
      id: "OldestDueJob",
      ...own("OldestDueSeconds"),
      Statistic: "Maximum",
      ...minutes(3),
      over: p.oldestDueSeconds,
      runbook:
        "Due jobs are not being run. `minutehand stats --all` shows what waits and what is paused, `minutehand explain <id>` " +
        "of a waiting job says why: paused, limit reached, workers throttled, or no tick. If ticks run, raise workerConcurrency or the reserved concurrency.",
    },
    {
      // readiness and doctor say so from 30 days on; a key without an end writes no such metric
      id: "WorkerKeyExpires",
      ...own("WorkerKeyDays"),
      Statistic: "Minimum",
      ...minutes(5),
      datapoints: 1,
      under: 7,
      runbook:
        "In less than a week every worker is refused at once. `minutehand rotate --only key --secrets secrets.env " +
        `--signing-key key.json --env-file prod.env --stage ${p.stage}\` signs a new key and writes it to SSM.`,
    },
    {
      // a throttled tick was a tick: while every worker is busy none starts, and nothing is wrong
      id: "TicksMissed",
      EvaluationPeriods: 3,
      under: 1,
      missing: "breaching",
      Metrics: [
        {
          Id: "ticks",
          Expression: "FILL(started, 0) + FILL(throttled, 0)",
          Label: "started or throttled",
        },
        {
          Id: "started",
          ReturnData: false,
          MetricStat: { Metric: lambda("Worker", "Invocations"), Period: 60, Stat: "Sum" },
        },
        {
          Id: "throttled",
          ReturnData: false,
          MetricStat: { Metric: lambda("Worker", "Throttles"), Period: 60, Stat: "Sum" },
        },
      ],
      runbook:
        "The worker was not invoked for three minutes. `aws scheduler get-schedule` must say ENABLED; then read the " +
        `messages in minutehand-${p.stage}-tick-failures. Until it is fixed: POST /api/jobs/worker runs a tick.`,
    },
    {
      // Invocations also counts wake-ups, so a dead schedule could hide behind a busy day
      id: "ScheduleStopped",
      ...schedule("InvocationAttemptCount"),
      Statistic: "Sum",
      ...minutes(5),
      under: 1,
      missing: "breaching",
      runbook:
        "The schedule itself is silent: deleted, disabled, or its role lost lambda:InvokeFunction. `minutehand doctor " +
        `--stage ${p.stage}\` names the first two. ${drift}`,
    },
    {
      id: "ScheduleDropped",
      ...schedule("InvocationDroppedCount"),
      Statistic: "Sum",
      ...minutes(5),
      over: 0,
      runbook:
        `Ticks could not be delivered and were dropped: read ERROR_CODE in minutehand-${p.stage}-tick-failures. ` +
        "ThrottlingException: reserved concurrency is 0 or exhausted. AccessDenied: the role was changed manually.",
    },
    {
      id: "DeadLetters",
      ...own("DeadLetters"),
      Statistic: "Sum",
      ...minutes(5),
      datapoints: 1,
      over: 0,
      runbook:
        "Jobs ran out of attempts. `minutehand ls --state failed` shows their errors; fix the cause, then " +
        "`minutehand retry --type …`. They are kept until then, nothing is lost.",
    },
    {
      id: "RecursionDropped",
      ...lambda("Worker", "RecursiveInvocationsDropped"),
      Statistic: "Sum",
      ...minutes(5),
      over: 0,
      datapoints: 1,
      runbook:
        "AWS stopped a chain of worker invocations. Fan-out has depth one, so a processor invokes the worker: " +
        "find it by the trace in X-Ray. The minute tick continues.",
    },
    {
      // a busy minute drops wake-ups by the dozen and needs no one; a quarter of an hour without a free worker does
      id: "WorkersTooFew",
      ...lambda("Worker", "AsyncEventsDropped"),
      Statistic: "Sum",
      ...minutes(15),
      over: 0,
      runbook:
        "For 15 minutes, wake-ups waited a minute for a worker and were dropped; no job is lost. Raise " +
        "workersAtOnce or workerConcurrency if OldestDueSeconds rises too, else leave it. Clears itself at the first quiet minute.",
    },
    {
      id: "TickFailuresWaiting",
      ...queue("TickFailures"),
      Statistic: "Maximum",
      ...minutes(5),
      datapoints: 1,
      over: 0,
      runbook:
        "The schedule could not reach the worker: ERROR_CODE and ERROR_MESSAGE are message attributes. Fix, then purge.",
    },
    {
      id: "Api5xx",
      EvaluationPeriods: 5,
      datapoints: 3,
      over: 1,
      Metrics: [
        { Id: "rate", Expression: "100 * FILL(failed, 0) / requests", Label: "failed requests, %" },
        {
          Id: "failed",
          ReturnData: false,
          MetricStat: { Metric: api("5xx"), Period: 60, Stat: "Sum" },
        },
        {
          Id: "requests",
          ReturnData: false,
          MetricStat: { Metric: api("Count"), Period: 60, Stat: "Sum" },
        },
      ],
      runbook:
        "More than 1 % of requests fail. The access log's integration_error distinguishes a crash (Internal Server Error) from " +
        "a timeout (Endpoint request timed out); continue with that function's Errors alarm. 503 without either: Supabase is unavailable.",
    },
    {
      // the two queues catch what failed; these two notice when the catching fails
      id: "WorkerFailuresLost",
      ...lambda("Worker", "DestinationDeliveryFailures"),
      Statistic: "Sum",
      ...minutes(5),
      datapoints: 1,
      over: 0,
      runbook:
        `A failed invoke could not be written to minutehand-${p.stage}-worker-failures: the queue or the worker role's ` +
        `sqs:SendMessage was changed manually. No job is lost. ${drift}`,
    },
    {
      id: "TickFailuresLost",
      ...schedule("InvocationsFailedToBeSentToDeadLetterCount"),
      Statistic: "Sum",
      ...minutes(5),
      datapoints: 1,
      over: 0,
      runbook:
        `A dropped tick could not be written to minutehand-${p.stage}-tick-failures: the queue or the tick role's ` +
        `sqs:SendMessage was changed manually. ${drift}`,
    },
  ];
}

function alarm(row, p) {
  const { id, runbook, over, under, missing, datapoints, ...metric } = row;
  return [
    `${id}Alarm`,
    {
      Type: "AWS::CloudWatch::Alarm",
      Properties: {
        AlarmName: `minutehand-${p.stage}-${id}`,
        AlarmDescription: `Runbook: ${runbook}`,
        ...metric,
        Threshold: over ?? under,
        ComparisonOperator: over === undefined ? "LessThanThreshold" : "GreaterThanThreshold",
        DatapointsToAlarm: datapoints ?? metric.EvaluationPeriods,
        TreatMissingData: missing ?? "notBreaching",
        AlarmActions: [{ Ref: "Alerts" }],
        OKActions: [{ Ref: "Alerts" }],
        Tags: [
          { Key: "app", Value: "minutehand" },
          { Key: "stage", Value: p.stage },
        ],
      },
    },
  ];
}

module.exports = async ({ resolveVariable }) => {
  const file = "file(build/minutehand/aws/functions.yml)";
  const timeout = async (name) => 1000 * Number(await resolveVariable(`${file}:${name}.timeout`));
  const p = {
    stage: await resolveVariable("sls:stage"),
    oldestDueSeconds: Number(await resolveVariable("param:oldestDueSeconds")),
    nearTimeout: {
      jobs: 0.8 * (await timeout("jobs")),
      status: 0.8 * (await timeout("status")),
      health: 0.8 * (await timeout("health")),
      // a busy tick uses its time on purpose and stops a few seconds before the end
      worker: (await timeout("worker")) - 1000,
    },
  };
  return { Resources: Object.fromEntries(rows(p).map((row) => alarm(row, p))) };
};
