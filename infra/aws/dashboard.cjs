// One screen for the person on call: is work waiting, is it being done, does it fail, what does it cost.
const functions = ["jobs", "status", "worker", "health"];

module.exports = async ({ resolveVariable }) => {
  const stage = await resolveVariable("sls:stage");
  const memory = await resolveVariable("param:workerMemory");
  const region = await resolveVariable("aws:region");
  const lambda = (metric, stat, names = functions) =>
    names.map((name) => [
      "AWS/Lambda",
      metric,
      "FunctionName",
      `minutehand-${stage}-${name}`,
      { stat, label: name },
    ]);
  const own = (metric, stat) => [
    "Minutehand",
    metric,
    "stage",
    stage,
    { stat, label: `${metric} ${stat}` },
  ];
  const api = (metric, stat) => ["AWS/ApiGateway", metric, "ApiId", "${HttpApi}", { stat }];

  const graphs = [
    ["Oldest due job, seconds", [own("OldestDueSeconds", "Maximum")]],
    [
      "Waiting from due to start, ms",
      ["p50", "p95", "p99"].map((stat) => own("QueueWaitMs", stat)),
    ],
    [
      "Settled per minute",
      ["Completed", "Retried", "DeadLetters"].map((metric) => own(metric, "Sum")),
    ],
    [
      "Ticks and wake-ups",
      [
        ...lambda("Invocations", "Sum", ["worker"]),
        [
          "AWS/Scheduler",
          "InvocationAttemptCount",
          "ScheduleGroup",
          `minutehand-${stage}`,
          { stat: "Sum", label: "schedule" },
        ],
      ],
    ],
    ["Errors", lambda("Errors", "Sum")],
    ["Throttles", lambda("Throttles", "Sum")],
    ["Duration p95, ms", lambda("Duration", "p95")],
    ["Workers at once", lambda("ConcurrentExecutions", "Maximum", ["worker"])],
    ["API requests and failures", [api("Count", "Sum"), api("4xx", "Sum"), api("5xx", "Sum")]],
    ["API latency, ms", [api("Latency", "p50"), api("Latency", "p99")]],
    [
      "Failed invokes kept",
      [["worker-failures"], ["tick-failures"]].map(([name]) => [
        "AWS/SQS",
        "ApproximateNumberOfMessagesVisible",
        "QueueName",
        `minutehand-${stage}-${name}`,
        { stat: "Maximum", label: name },
      ]),
    ],
    [
      "Worker GB-seconds (estimate)",
      [
        [{ expression: `busy / 1000 * ${memory} / 1024`, label: "GB-seconds" }],
        [
          "AWS/Lambda",
          "Duration",
          "FunctionName",
          `minutehand-${stage}-worker`,
          { id: "busy", stat: "Sum", visible: false },
        ],
      ],
    ],
  ];
  const widgets = graphs.map(([title, metrics], at) => ({
    type: "metric",
    x: (at % 3) * 8,
    y: Math.floor(at / 3) * 6,
    width: 8,
    height: 6,
    properties: { title, region, metrics, period: 60, view: "timeSeries", stacked: false },
  }));
  return {
    Resources: {
      Dashboard: {
        Type: "AWS::CloudWatch::Dashboard",
        Properties: {
          DashboardName: `minutehand-${stage}`,
          DashboardBody: { "Fn::Sub": JSON.stringify({ widgets }) },
        },
      },
    },
  };
};
